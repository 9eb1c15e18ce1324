//! What a tagger writes: `date { year: "二零二二年" month: "五月" } char { value: "好" }`.

use std::ops::Range;

/// Order in which verbalizers expect the members of a class (WeTextProcessing's `ITN_ORDERS`, FunASR's
/// `itn-token-parser.cpp`); what is not listed comes after, as it was.
const ORDERS: [(&str, &[&str]); 7] = [
    ("date", &["year", "month", "day", "preserve_order"]),
    ("fraction", &["sign", "numerator", "denominator"]),
    ("measure", &["numerator", "denominator", "value", "units"]),
    ("money", &["currency", "value", "decimal", "quantity"]),
    ("time", &["hour", "minute", "second", "noon", "zone"]),
    ("telephone", &["country_code", "number_part"]),
    ("electronic", &["username", "domain", "protocol"]),
];
/// Member that, with value `true`, keeps the others as they were.
const KEEP_ORDER: &str = "preserve_order";

/// One tagged stretch of text.
#[derive(Debug, PartialEq)]
pub struct Tag<'a> {
    /// Where it stands in what the tagger wrote.
    pub range: Range<usize>,
    name: &'a str,
    /// Keys and quoted values, with their escapes.
    members: Vec<(&'a str, &'a str)>,
}

/// The tags of `tagged`, or nothing if it is not made of tags.
pub fn parse(tagged: &str) -> Option<Vec<Tag<'_>>> {
    let mut reader = Reader { rest: tagged };
    let mut tags = Vec::new();
    while !reader.skip(' ').rest.is_empty() {
        let begin = tagged.len() - reader.rest.len();
        let name = reader.name()?;
        reader.skip(' ').expect("{")?;
        let mut members = Vec::new();
        while reader.skip(' ').expect("}").is_none() {
            let key = reader.name()?;
            reader.expect(":")?;
            reader.skip(' ').expect("\"")?;
            members.push((key, reader.value()?));
        }
        tags.push(Tag { range: begin..tagged.len() - reader.rest.len(), name, members });
    }
    Some(tags)
}

impl Tag<'_> {
    /// Appends the tag with its members in the order that the verbalizer expects.
    pub fn write(&self, out: &mut String) {
        let keeps = self.members.contains(&(KEEP_ORDER, "true"));
        let order = ORDERS.iter().find(|(name, _)| *name == self.name && !keeps).map_or(&[][..], |(_, o)| *o);
        let listed = order.iter().flat_map(|key| self.members.iter().filter(move |(name, _)| name == key));
        let others = self.members.iter().filter(|(key, _)| !order.contains(key));
        out.push_str(self.name);
        out.push_str(" {");
        for (key, value) in listed.chain(others) {
            out.extend([" ", key, ": \"", value, "\""]);
        }
        out.push_str(" }");
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, letter: char) -> &mut Self {
        self.rest = self.rest.trim_start_matches(letter);
        self
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_name = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
        let end = self.rest.find(|letter| !is_name(letter)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    /// A value up to its closing quote, which is taken, too.
    fn value(&mut self) -> Option<&'a str> {
        let mut escaped = false;
        let end = self.rest.find(|letter| {
            let closes = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            closes
        })?;
        let (value, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn members_stand_in_the_order_of_their_class() {
        let cases = [
            (r#"time { noon: "下午" hour: "三点" }"#, r#"time { hour: "三点" noon: "下午" }"#),
            (
                r#"date { day: "4" preserve_order: "true" year: "2" }"#,
                r#"date { day: "4" preserve_order: "true" year: "2" }"#,
            ),
            (
                r#"money{value:"a\" }" kind: "b\\" currency: "c"}  "#,
                r#"money { currency: "c" value: "a\" }" kind: "b\\" }"#,
            ),
            (r#"word { value: "a" }  word { value: "b" }"#, r#"word { value: "a" } word { value: "b" }"#),
            (r#"sign { }"#, "sign { }"),
            ("", ""),
        ];
        for (tagged, expected) in cases {
            let mut out = String::new();
            for tag in parse(tagged).unwrap() {
                if !out.is_empty() {
                    out.push(' ');
                }
                tag.write(&mut out);
            }
            assert_eq!(out, expected, "{tagged}");
        }
    }

    #[test]
    fn what_is_not_made_of_tags_is_none() {
        for text in [
            "你好",
            "a",
            "a {",
            "a { b }",
            "a { b: }",
            r#"a { b: "c }"#,
            r#"a { b: "c\" }"#,
            "} a { }",
            "{ }",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
