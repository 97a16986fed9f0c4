//! JSON or XML: the form of an answer, as `Format` asks.

use std::fmt::Write;

use bytes::Bytes;
use hyper::header::HeaderValue;
use quick_xml::escape::escape;
use serde_json::{Map, Value};

use super::error::ApiError;

/// In what form an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// Unless told otherwise, for every product: current clients send no `Format` and read JSON.
    #[default]
    Json,
    /// Where `Format=XML` asks.
    Xml,
}

const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

impl Format {
    /// The form that the value of the parameter `Format` asks for.
    pub(super) fn asked(value: Option<&str>) -> Result<Self, ApiError> {
        match value {
            None => Ok(Self::Json),
            Some(text) if text.eq_ignore_ascii_case("json") => Ok(Self::Json),
            Some(text) if text.eq_ignore_ascii_case("xml") => Ok(Self::Xml),
            Some(_) => Err(ApiError::invalid("Format").recommending("allowed: JSON, XML")),
        }
    }

    pub(super) const fn content_type(self) -> HeaderValue {
        match self {
            Self::Json => HeaderValue::from_static("application/json"),
            Self::Xml => HeaderValue::from_static("text/xml;charset=utf-8"),
        }
    }

    /// The body of a refusal.
    pub(super) fn error_body(self, body: &Value) -> Bytes {
        match (self, body) {
            (Self::Xml, Value::Object(fields)) => {
                format!("{XML_HEAD}<Error>{}</Error>", elements(fields)).into()
            }
            _ => body.to_string().into(),
        }
    }

    /// The body of an answer to `action`, in two parts: where there is a secret field, its text
    /// goes between them.
    pub(super) fn around(
        self,
        action: &str,
        fields: Map<String, Value>,
        secret: Option<&str>,
    ) -> (String, String) {
        match (self, secret.and_then(|name| name.split_once('.'))) {
            (_, Some(place)) => self.around_inner(action, fields, place),
            (format, None) => format.around_outer(action, fields, secret),
        }
    }

    /// As [`Format::around`], the secret being field `name` of the object `outer`.
    fn around_inner(
        self,
        action: &str,
        mut fields: Map<String, Value>,
        (outer, name): (&str, &str),
    ) -> (String, String) {
        let inner = match fields.remove(outer) {
            Some(Value::Object(inner)) => inner,
            _ => Map::new(),
        };
        match self {
            Self::Json => {
                let (inner, rest) = (Value::Object(inner), Value::Object(fields));
                let more = |object: &Value| match object.to_string().as_str() {
                    "{}" => "}".to_owned(),
                    text => format!(",{}", &text[1..]),
                };
                let head = format!("{{\"{outer}\":{{\"{name}\":\"");
                (head, format!("\"{}{}", more(&inner), more(&rest)))
            }
            Self::Xml => (
                format!("{XML_HEAD}<{action}Response><{outer}><{name}>"),
                format!(
                    "</{name}>{}</{outer}>{}</{action}Response>",
                    elements(&inner),
                    elements(&fields)
                ),
            ),
        }
    }

    fn around_outer(
        self,
        action: &str,
        fields: Map<String, Value>,
        secret: Option<&str>,
    ) -> (String, String) {
        match self {
            Self::Json => {
                let rest = Value::Object(fields).to_string();
                match secret {
                    None => (rest, String::new()),
                    Some(name) => (format!("{{\"{name}\":\""), format!("\",{}", &rest[1..])),
                }
            }
            Self::Xml => {
                let head = format!("{XML_HEAD}<{action}Response>");
                let rest = format!("{}</{action}Response>", elements(&fields));
                match secret {
                    None => (head + &rest, String::new()),
                    Some(name) => (format!("{head}<{name}>"), format!("</{name}>{rest}")),
                }
            }
        }
    }
}

fn elements(fields: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        element(&mut text, name, value);
    }
    text
}

/// A list becomes one element an entry, all of its name: `Keys.Key[]` is
/// `<Keys><Key/><Key/></Keys>`.
fn element(text: &mut String, name: &str, value: &Value) {
    if let Value::Array(entries) = value {
        entries.iter().for_each(|entry| element(text, name, entry));
        return;
    }
    let name = element_name(name);
    text.push('<');
    text.push_str(&name);
    text.push('>');
    match value {
        Value::Null | Value::Array(_) => {}
        Value::Object(fields) => text.push_str(&elements(fields)),
        Value::String(value) => text.push_str(&escape(printable(value))),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) => {
            let _ = write!(text, "{value}");
        }
    }
    text.push_str("</");
    text.push_str(&name);
    text.push('>');
}

/// Names come from us, but for what clients made: what XML does not take in a name becomes `_`.
fn element_name(name: &str) -> String {
    let is_inner = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let mut safe: String =
        name.chars().map(|char| if is_inner(char) { char } else { '_' }).collect();
    if !safe.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_') {
        safe.insert(0, '_');
    }
    safe
}

/// Control characters cannot stand in XML at all, not even escaped.
fn printable(text: &str) -> String {
    let is_fit = |char: &char| matches!(char, '\t' | '\n' | '\r') || *char >= ' ';
    text.chars().filter(is_fit).filter(|char| !matches!(char, '\u{fffe}' | '\u{ffff}')).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn xml(value: Value) -> String {
        let Value::Object(fields) = value else { unreachable!("an object") };
        Format::Xml.around("List", fields, None).0
    }

    #[test]
    fn lists_are_repeated_elements() {
        let text = xml(json!({"Keys": {"Key": [{"KeyId": "a"}, {"KeyId": "b"}]}, "TotalCount": 2}));
        let expected = "<ListResponse><Keys><Key><KeyId>a</KeyId></Key><Key><KeyId>b</KeyId></Key>\
                        </Keys><TotalCount>2</TotalCount></ListResponse>";
        assert_eq!(text, format!("{XML_HEAD}{expected}"));
    }

    #[test]
    fn what_clients_wrote_cannot_leave_its_element() {
        let text = xml(json!({"Note": "<a>&\"\u{0}b", "1 x><y": {"": true}}));
        assert!(text.contains("<Note>&lt;a&gt;&amp;&quot;b</Note>"), "{text}");
        assert!(text.contains("<_1_x__y><_>true</_></_1_x__y>"), "{text}");
    }

    #[test]
    fn a_refusal_is_an_error_element() {
        let body = Format::Xml.error_body(&json!({"Code": "A.B", "Message": "no"}));
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.ends_with("<Error><Code>A.B</Code><Message>no</Message></Error>"), "{text}");
        assert_eq!(Format::asked(Some("xml")), Ok(Format::Xml));
        assert!(Format::asked(Some("yaml")).is_err());
    }
}
