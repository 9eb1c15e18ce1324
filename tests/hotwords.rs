//! Hotword lists: what is read, how it is spelled, what is refused and why.

use funasr_candle::decode::hotwords::{HotwordReport, Hotwords, MAX_HOTWORDS, SegDict, matches};
use funasr_candle::decode::tokens::TokenList;
use serde_json::Value;

struct Vocabulary {
    table: Value,
    tokens: TokenList,
    seg_dict: SegDict,
}

/// The cases of FunASR, and the vocabulary they are spelled in.
fn vocabulary() -> Vocabulary {
    let table: Value = serde_json::from_str(include_str!("golden/hotwords.json")).unwrap();
    let lines: Vec<&str> =
        table["seg_dict"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    Vocabulary {
        tokens: TokenList::from_json("tokens.json", &table["tokens"].to_string()).unwrap(),
        seg_dict: SegDict::parse(&lines.join("\n")),
        table,
    }
}

fn read(bytes: &[u8]) -> Hotwords {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Hotwords::read(file.path()).unwrap()
}

/// `word=weight` or `word`, one a hotword.
fn words(list: &Hotwords) -> Vec<String> {
    let show = |word: &funasr_candle::decode::hotwords::Hotword| match word.weight {
        Some(weight) => format!("{}={weight}", word.text),
        None => word.text.clone(),
    };
    list.words.iter().map(show).collect()
}

/// `word: why` of every rejected one.
fn rejected(list: &[funasr_candle::decode::hotwords::Rejected]) -> Vec<String> {
    list.iter().map(|rejected| format!("{}: {}", rejected.word, rejected.why)).collect()
}

#[test]
fn token_ids_are_funasrs() {
    let Vocabulary { table, tokens, seg_dict } = vocabulary();
    let unk = u64::from(tokens.id("<unk>"));
    let cases = table["cases"].as_array().unwrap();
    assert!(cases.len() >= 30);
    for case in cases {
        let list = match case["file"].as_str() {
            Some(text) => read(text.as_bytes()),
            None => Hotwords::parse(case["string"].as_str().unwrap()),
        };
        let with_dict = case["seg_dict"].as_bool().unwrap();
        let (ids, report) = list.encode(&tokens, with_dict.then_some(&seg_dict));
        let theirs: Vec<Vec<u64>> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(report.accepted.len(), ids.len());
        assert_eq!(report.accepted.len() + report.rejected.len(), theirs.len(), "{case}");
        // FunASR biases with `<unk>` what it cannot spell; here that is rejected. Without a dictionary it spells whole
        // words only, here also character by character.
        for theirs in theirs.into_iter().filter(|ids| !ids.contains(&unk)) {
            assert!(ids.iter().any(|ids| ids.iter().map(|&id| u64::from(id)).eq(theirs.clone())), "{case}");
        }
        if with_dict {
            let spelled = case["ids"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|ids| ids.as_array().unwrap().iter().all(|id| id.as_u64() != Some(unk)));
            assert_eq!(ids.len(), spelled.count(), "{case}");
        }
    }
}

#[test]
fn strings() {
    let long = "长".repeat(201);
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("", &[], &[]),
        (" \n ,, ，", &[], &[]),
        ("阿里巴巴 达摩院", &["阿里巴巴", "达摩院"], &[]),
        ("阿里巴巴 20 达摩院 -1.5", &["阿里巴巴=20", "达摩院=-1.5"], &[]),
        ("2023 年会", &["2023", "年会"], &[]),
        ("阿里巴巴 20, hello world 40 ,达摩院", &["阿里巴巴=20", "hello world=40", "达摩院"], &[]),
        ("通义，达摩院、阿里 3g", &["通义", "达摩院", "阿里 3g"], &[]),
        ("阿里巴巴 20\nhello  world\t1e2\n", &["阿里巴巴=20", "hello world=100"], &[]),
        ("20,30", &["20", "30"], &[]),
        ("to infinity, up 1.2.3", &["to infinity", "up 1.2.3"], &[]),
        ("阿里 1, 阿里 2", &["阿里=1"], &[]),
        (
            "阿里 nan, 达摩 1e99, 院 -inf",
            &[],
            &[
                "阿里: the weight is not a finite number",
                "达摩: the weight is not a finite number",
                "院: the weight is not a finite number",
            ],
        ),
        (
            &long,
            &[],
            &[
                "长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长长…: longer than 200 characters",
            ],
        ),
        (
            r#"{"阿里巴巴": 20, "达摩院": "30", "hello world": -1.5}"#,
            &["hello world=-1.5", "达摩院=30", "阿里巴巴=20"],
            &[],
        ),
        (
            r#"{"a": null, "b": "x", "c": [1], "d": "inf", "": 1, "e": 1, "f": ["2"], "g": [1, 2], "h": 1e5}"#,
            &["c=1", "e=1", "f=2"],
            &[
                "a: weight null is not a number",
                r#"b: weight "x" is not a number"#,
                "d: the weight is not a finite number",
                "g: weight [1,2] is not a number",
                "h: the weight is not between -10000 and 10000",
            ],
        ),
        (r#"{"a": 1"#, &[], &["{\"a\": 1: not JSON: EOF while parsing an object at line 1 column 7"]),
        (
            r#"["阿里 巴巴 20", "达摩院", ["通义", "30"], ["院", [4]], ["云"], {"千问": 5}, 7, ["a", 1, 2], [], null]"#,
            &["阿里 巴巴=20", "达摩院", "通义=30", "院=4", "云", "千问=5"],
            &[
                "7: not a word",
                "[\"a\",1,2]: not a pair of a word and a weight",
                "[]: not a pair of a word and a weight",
                "null: not a word",
            ],
        ),
        (
            "a 10000, b 10001, c -10000.5",
            &["a=10000"],
            &[
                "b: the weight is not between -10000 and 10000",
                "c: the weight is not between -10000 and 10000",
            ],
        ),
    ];
    for (text, expected, refused) in cases {
        let list = Hotwords::parse(text);
        let mut found = words(&list);
        if text.starts_with('{') {
            // A JSON object has no order.
            found.sort();
        }
        assert_eq!(found, *expected, "{text}");
        assert_eq!(rejected(&list.rejected), *refused, "{text}");
    }
}

#[test]
fn bad_lines_are_named_and_the_others_used() {
    let mut bytes = "\u{feff}阿里巴巴 20\r\n\r\nhello world\n达摩 nan\n".as_bytes().to_vec();
    bytes.extend(b"\xff\xfe bad\n");
    bytes.extend("a, b\n".as_bytes());
    bytes.extend("长".repeat(300).as_bytes());
    let list = read(&bytes);
    assert_eq!(words(&list), ["阿里巴巴=20", "hello world", "a, b"]);
    let reasons: Vec<&str> = list.rejected.iter().map(|rejected| rejected.why.as_str()).collect();
    let expected = [
        "line 4: the weight is not a finite number",
        "line 5: not UTF-8 text",
        "line 7: longer than 200 characters",
    ];
    assert_eq!(reasons, expected);

    let missing = Hotwords::read("no/such/hotwords.txt").unwrap_err().to_string();
    assert!(missing.starts_with("no/such/hotwords.txt: "), "{missing}");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((4 << 20) + 1).unwrap();
    let large = Hotwords::read(file.path()).unwrap_err().to_string();
    assert!(large.ends_with("larger than 4194304 bytes: not a list of hotwords"), "{large}");
}

#[test]
fn ten_thousand_hotwords_and_no_more() {
    let lines = |count: usize| (0..count).map(|i| format!("word{i} {i}\n")).collect::<String>();
    let full = read(lines(MAX_HOTWORDS).as_bytes());
    assert_eq!((full.words.len(), full.rejected.len()), (MAX_HOTWORDS, 0));
    let over = read(lines(MAX_HOTWORDS + 7).as_bytes());
    assert_eq!(over.words, full.words);
    assert_eq!(rejected(&over.rejected), ["word10000: the first of 7 beyond the limit of 10000 hotwords"]);
    let bad = read(&b"\xff\n".repeat(3 * MAX_HOTWORDS));
    assert_eq!((bad.words.len(), bad.rejected.len()), (0, MAX_HOTWORDS + 1));
}

#[test]
fn what_cannot_be_spelled_is_rejected_with_a_reason() {
    let Vocabulary { tokens, seg_dict, .. } = vocabulary();
    let long = "你".repeat(51);
    let longest = "你".repeat(50);
    let (good, bad) = ("", "out of vocabulary: ");
    let cases = [
        (true, "阿贝", "out of vocabulary: '贝'"),
        (true, "贝", "out of vocabulary: '贝'"),
        (true, "hello Hello2", "out of vocabulary: 'hello2'"),
        (true, "里龘", "out of vocabulary: '龘'"),
        (true, "lone", "out of vocabulary: 'lone'"),
        (true, "<unk>", "out of vocabulary: '<unk>'"),
        (true, "阿里hello", "out of vocabulary: '阿里hello'"),
        (true, &long, "too long: 51 tokens, at most 50"),
        (true, &longest, good),
        (true, "空", "spelled with no tokens"),
        (false, "阿里巴巴", good),
        (false, "WORLD", good),
        (false, "阿贝", "out of vocabulary: '贝'"),
        (false, "<unk>", "out of vocabulary: '<unk>'"),
        (false, "hello", "out of vocabulary: 'hello'"),
    ];
    let mut lines: Vec<String> = vec!["空".to_owned()];
    lines.extend(
        vocabulary().table["seg_dict"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()),
    );
    let with_empty = SegDict::parse(&lines.join("\n"));
    assert!(Hotwords::parse("空").encode(&tokens, Some(&seg_dict)).1.rejected[0].why.starts_with(bad));
    for (with_dict, word, why) in cases {
        // One line of a file: several words are one hotword.
        let (ids, report) = read(word.as_bytes()).encode(&tokens, with_dict.then_some(&with_empty));
        let expected: &[&str] = if why.is_empty() { &[] } else { &[why] };
        assert_eq!(report.rejected.iter().map(|r| r.why.as_str()).collect::<Vec<_>>(), expected, "{word}");
        assert_eq!(ids.len(), usize::from(why.is_empty()), "{word}");
    }
}

#[test]
fn the_report_as_json() {
    let Vocabulary { tokens, seg_dict, .. } = vocabulary();
    let (_, report) = Hotwords::parse("阿里巴巴 20, 贝, hello nan").encode(&tokens, Some(&seg_dict));
    let expected = serde_json::json!({
        "accepted": ["阿里巴巴"],
        "rejected": [
            {"word": "hello", "why": "the weight is not a finite number"},
            {"word": "贝", "why": "out of vocabulary: '贝'"},
        ],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    assert_eq!(Hotwords::parse("").encode(&tokens, None).1, HotwordReport::default());
}

#[test]
fn hotwords_found_in_a_text() {
    let cases = [
        ("阿里巴巴", "我在阿里巴巴工作。", true),
        ("阿里 巴巴", "阿里巴巴", true),
        ("阿里巴巴", "阿 里 巴 巴", true),
        ("Hello World", "say hello  world!", true),
        ("hello world", "helloworld", false),
        ("art", "party", false),
        ("art", "state of the art", true),
        ("art", "party art", true),
        ("GPU", "用gpu训练", true),
        ("3g", "我用 3G 网", true),
        ("你好a", "你好 a 吗", true),
        ("达摩院", "达摩", false),
        ("", "x", false),
    ];
    for (word, text, found) in cases {
        let spoken = text.split(' ').zip(1u64..).map(|(word, n)| (word, n * 100, n * 100 + 50));
        assert_eq!(matches(&[word.to_owned()], spoken).len(), usize::from(found), "{word} in {text}");
    }
}

#[test]
fn matches_have_times() {
    let spoken = [
        ("他", 0, 90),
        ("在", 100, 190),
        ("Hello", 200, 390),
        ("world", 400, 590),
        ("北", 600, 690),
        ("京", 700, 790),
    ];
    let words = ["北京", "hello World", "world", "他", "上海"].map(str::to_owned);
    let found: Vec<String> = matches(&words, spoken)
        .into_iter()
        .map(|m| format!("{} {}-{}", m.word, m.start_ms, m.end_ms))
        .collect();
    assert_eq!(found, ["他 0-90", "hello World 200-590", "world 400-590", "北京 600-790"]);
}

#[test]
fn words_of_a_request_win() {
    let (request, server) = (Hotwords::parse("甲 5, 乙"), Hotwords::parse("乙 7, 丙 8, 甲 9"));
    assert_eq!(words(&request.over(&server)), ["甲=5", "乙", "丙=8"]);
    assert_eq!(words(&Hotwords::default().over(&server)), ["乙=7", "丙=8", "甲=9"]);
}

#[test]
fn no_text_is_a_panic() {
    let Vocabulary { tokens, seg_dict, .. } = vocabulary();
    let alphabet: Vec<char> = "阿里贝hello 20,，\n{}\":.-+en\u{feff}\u{3000}龘İß\u{10ffff}".chars().collect();
    let mut state: u32 = 7;
    for length in 0..400 {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            alphabet[(state >> 8) as usize % alphabet.len()]
        };
        let text: String = (0..length % 60).map(|_| next()).collect();
        for list in [Hotwords::parse(&text), Hotwords::parse(&format!("{{{text}")), read(text.as_bytes())] {
            for dict in [None, Some(&seg_dict)] {
                let (ids, report) = list.encode(&tokens, dict);
                assert_eq!(ids.len(), report.accepted.len());
                assert!(ids.iter().all(|ids| !ids.is_empty()));
                matches(&report.accepted, [(text.as_str(), 0, 1)]);
            }
        }
    }
}
