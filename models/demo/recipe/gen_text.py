"""Sentences for the demo models: templates.txt with its slots filled, as spoken Mandarin with punctuation.

    python gen_text.py --train 14000 --held 300      -> work/text/{train,held}.jsonl

Held-out sentences never occur in the training text (compared without punctuation).
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

MARKS = "，。？、"
DIGITS = "零一二三四五六七八九"
DEMO_SENTENCE = "欢迎大家来体验达摩院推出的语音识别模型。"  # shipped as a clip, so it is always in the training text
TEMPLATES = (Path(__file__).parent / "templates.txt").read_text(encoding="utf-8").split("\n")[:-1]

WORDS = {
    "day": "今天 明天 昨天 后天 前天 周一 周二 周三 周四 周五 周六 周日 星期一 星期二 星期三 星期四 星期五 星期天 这个周末 下个月 上个月 下周 上周",
    "city": "北京 上海 广州 深圳 杭州 南京 成都 重庆 武汉 西安 天津 苏州 青岛 厦门 长沙 昆明 香港 大连",
    "place": "火车站 机场 人民医院 学校 银行 公园 图书馆 超市 酒店 体育馆 博物馆 电影院 人民广场 市政府 地铁站 加油站 餐厅 咖啡馆 停车场 邮局 药店 公司 达摩院 阿里巴巴",
    "name": "王小明 李华 张伟 刘洋 陈静 赵磊 周婷 吴老师 孙经理 黄医生 林总 马丽 小红 小张 老李 高主任 杨律师 爸爸 妈妈 哥哥 姐姐 弟弟 妹妹",
    "pron": "我 你 他 她 我们 你们 他们 大家",
    "weather": "晴天 多云 小雨 大雨 阴天 小雪 大雾 大风 暴雨 雷阵雨 晴转多云",
    "dev": "客厅的灯 卧室的灯 空调 电视 窗帘 音乐 闹钟 蓝牙 风扇 洗衣机 热水器 摄像头 收音机 热点 导航 手电筒 wifi",
    "food": "米饭 面条 饺子 牛肉 鸡蛋 苹果 香蕉 西瓜 牛奶 咖啡 绿茶 面包 红烧鱼 豆腐 白菜 土豆 包子 火锅 烤鸭 水果 蛋糕 汤",
    "item": "手机 电脑 书 衣服 鞋子 雨伞 眼镜 钱包 钥匙 耳机 相机 自行车 桌子 椅子 书包 帽子 手表 铅笔",
    "topic": "项目进度 预算 市场计划 合同 技术方案 产品设计 语音识别 人工智能 大模型 数据安全 用户反馈 测试结果 招聘 年度总结 客户需求 开源社区 软件更新 通义千问 公司新闻 代码质量",
    "org": "阿里巴巴 达摩院 通义实验室 魔搭社区 中国银行 清华大学 北京大学 人民医院 市场部 技术部 财务部 研究院 科学院",
    "adj": "很好 不错 非常漂亮 太贵了 很有意思 有点难 特别重要 很简单 比较复杂 非常清楚 很奇怪 很舒服",
    "song": "月亮代表我的心 东方红 茉莉花 童年 朋友 海阔天空 小苹果 甜蜜蜜",
    "sport": "跑步 游泳 打篮球 踢足球 打羽毛球 爬山 骑车 散步 跳舞 画画 唱歌 下棋",
    "act": "开会 吃饭 上班 上课 考试 看电影 出差 旅行 休息 学习 买菜 锻炼身体 看病 回家 写报告",
    # Exact homophones: no model can tell them apart without context; they are there for hotword tests.
    "homo": "公式 公事 会议 会意 权利 权力 期中 期终 树木 数目 事例 示例 视力 势力 通义 同意 北京 背景 攻势",
    "subj": "数学 语文 英语 历史 地理 物理 化学 音乐 体育",
    "en": "email app ppt pdf excel word",
    "enp": "python rust",
    "enh": "gpu cpu",
    "ensite": "google github",
}
WORDS = {slot: words.split() for slot, words in WORDS.items()}
MEASURES = {
    "ge": "个",
    "wei": "位",
    "zhang": "张",
    "ben": "本",
    "bei": "杯",
    "fz": "分钟",
    "xs": "个小时",
    "tian": "天",
}


def number(n):
    """An integer below 100 million as it is spoken; 10..19 drop the 一 only at the very front."""
    spoken = _number(n)
    return spoken[1:] if spoken.startswith("一十") else spoken


def _number(n):
    if n < 10:
        return DIGITS[n]
    unit, name = next(pair for pair in ((10000, "万"), (1000, "千"), (100, "百"), (10, "十")) if n >= pair[0])
    head, rest = divmod(n, unit)
    gap = "零" if 0 < rest < unit // 10 else ""
    return _number(head) + name + gap + (_number(rest) if rest else "")


def counted(n):
    return "两" if n == 2 else number(n)


def spell(digits, one="一"):
    return "".join(one if d == "1" else DIGITS[int(d)] for d in digits)


def digit_string(r, length):
    return "".join(r.choice("0123456789") for _ in range(length))


def time(r):
    part = r.choice(["上午", "下午", "早上", "晚上", "中午", "凌晨"])
    hour = {"中午": 12, "凌晨": r.randint(1, 5)}.get(part, r.randint(1, 12))
    kind = r.random()
    if kind < 0.5:
        return f"{part}{counted(hour)}点{'' if kind < 0.35 else '半'}"
    minute = r.choice([*range(5, 60, 5), r.randint(11, 59)])
    return f"{part}{counted(hour)}点{'' if minute >= 10 else '零'}{number(minute)}分"


def date(r):
    spoken = f"{number(r.randint(1, 12))}月{number(r.randint(1, 31))}{r.choice('号日')}"
    return f"{spell(str(r.randint(1980, 2035)))}年{spoken}" if r.random() < 0.4 else spoken


def phone(r):
    return spell("1" + r.choice("3578") + digit_string(r, 9), one="幺")


def tel(r):
    return phone(r) if r.random() < 0.4 else spell(digit_string(r, r.choice([4, 5, 6, 8])), one="幺")


def money(r):
    if r.random() < 0.25:
        return f"{number(r.randint(1, 99))}块{DIGITS[r.randint(1, 9)]}"
    amount = r.choice([r.randint(1, 999), r.randint(1, 999), r.randint(1, 99) * 100, r.randint(1, 99) * 1000])
    return counted(amount) + r.choice(["元", "块钱", "块"])


def percent(r):
    if r.random() < 0.35:
        return f"百分之{number(r.randint(0, 99))}点{DIGITS[r.randint(1, 9)]}"
    return "百分之" + number(r.randint(1, 100))


def temperature(r):
    return ("零下" if r.random() < 0.2 else "") + number(r.randint(1, 39)) + "度"


def quantity(measure):
    return lambda r: counted(r.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100])) + measure


SLOTS = {slot: (lambda r, words=words: r.choice(words)) for slot, words in WORDS.items()}
SLOTS |= {slot: quantity(measure) for slot, measure in MEASURES.items()}
SLOTS |= {
    "time": time,
    "date": date,
    "phone": phone,
    "tel": tel,
    "money": money,
    "pct": percent,
    "temp": temperature,
    "dec": lambda r: f"{number(r.randint(0, 99))}点{spell(str(r.randint(1, 99)).zfill(r.choice([1, 2])))}",
    "n10": lambda r: number(r.randint(1, 10)),
    "n100": lambda r: number(r.randint(1, 100)),
    "n1000": lambda r: number(r.randint(100, 9999)),
    "km": lambda r: number(r.randint(1, 200)) + "公里",
    "mi": lambda r: number(r.choice([50, 100, 150, 200, 300, 500, 800])) + "米",
}


def weight(template):
    """Templates with slots, English words, digits or homophones have more to teach."""
    slots = re.findall(r"\{(\w+)\}", template)
    factor = [0.35, 1.0, 1.3, 1.3, 1.2, 1.0][min(len(slots), 5)]
    if re.search("[a-z]", re.sub(r"\{\w+\}", "", template)) or any(s.startswith("en") for s in slots):
        factor *= 2
    return factor * (2 if {"homo", "phone", "tel"} & set(slots) else 1)


WEIGHTS = [weight(template) for template in TEMPLATES]


def sentence(r):
    return re.sub(r"\{(\w+)\}", lambda slot: SLOTS[slot[1]](r), r.choices(TEMPLATES, WEIGHTS)[0])


def plain(text):
    return "".join(ch for ch in text if ch not in MARKS)


def generate(n_train, n_held, seed=7):
    r = random.Random(seed)
    held, train, count = {}, [], Counter()
    while len(held) < n_held:
        text = sentence(r)
        if 5 <= len(plain(text)) <= 34 and text not in TEMPLATES:
            held[plain(text)] = text
    while len(train) < n_train:
        text = sentence(r)
        if plain(text) not in held and len(plain(text)) <= 36 and count[plain(text)] < 7:
            count[plain(text)] += 1
            train.append(text)
    train += [DEMO_SENTENCE] * 16
    r.shuffle(train)
    return {"train": train, "held": list(held.values())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=int, default=14000)
    parser.add_argument("--held", type=int, default=300)
    args = parser.parse_args()
    out = Path("work/text")
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in generate(args.train, args.held).items():
        rows = [{"id": f"{name}{i:05d}", "text": plain(text), "punc": text} for i, text in enumerate(texts)]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        hanzi = {ch for row in rows for ch in row["text"] if not ch.isascii()}
        print(f"{name}: {len(rows)} sentences, {len(set(texts))} different, {len(hanzi)} Hanzi")


if __name__ == "__main__":
    main()
