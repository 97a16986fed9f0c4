//! What an action answers, and how it becomes bytes without leaving secrets behind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::format::Format;
use super::rpc::Paging;
use crate::secret::Secret;

/// The fields of an answer; `RequestId` is added last.
#[derive(Debug, Default)]
pub(super) struct Answer {
    fields: Map<String, Value>,
    secret: Option<(&'static str, SecretText)>,
}

/// A secret and how it is written.
#[derive(Debug)]
enum SecretText {
    /// Bytes, as base64.
    Base64(Secret),
    /// Letters and digits, as they are.
    Plain(Secret),
}

impl SecretText {
    fn len(&self) -> usize {
        match self {
            Self::Base64(secret) => secret.len().div_ceil(3) * 4,
            Self::Plain(secret) => secret.len(),
        }
    }

    /// Writes it over all of `place`.
    fn write(&self, place: &mut [u8]) {
        match self {
            Self::Base64(secret) => {
                let written = STANDARD.encode_slice(secret.expose(), place);
                debug_assert_eq!(written, Ok(self.len()));
            }
            Self::Plain(secret) => place.copy_from_slice(secret.expose()),
        }
    }
}

impl Answer {
    /// An answer that says only that it was done.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// With one more field.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// With a list, wrapped twice as the cloud does (`Keys.Key[]`), and its paging.
    pub(super) fn with_page(
        self,
        outer: &str,
        inner: &str,
        page: (Paging, u64, Vec<Value>),
    ) -> Self {
        let (paging, total, items) = page;
        let wrapped = Map::from_iter([(inner.to_owned(), Value::Array(items))]);
        self.with(outer, wrapped)
            .with("PageNumber", paging.number)
            .with("PageSize", paging.size)
            .with("TotalCount", total)
    }

    /// With a secret field, base64 in the body. At most one.
    pub(super) fn with_secret(mut self, name: &'static str, secret: Secret) -> Self {
        self.secret = Some((name, SecretText::Base64(secret)));
        self
    }

    /// With a secret of letters and digits, written as it is, at `place`: `Outer.Name`, where
    /// `Outer` is an object among the fields. At most one.
    pub(super) fn with_secret_text(mut self, place: &'static str, secret: Secret) -> Self {
        self.secret = Some((place, SecretText::Plain(secret)));
        self
    }

    /// The body of the answer to `action`. A secret is encoded straight from the arena into the one
    /// buffer that goes to the socket, which is wiped when the last reader lets it go. What remains
    /// out of our reach: the kernel's socket buffer, and whatever the client does.
    pub(super) fn into_body(self, request_id: Uuid, action: &str, format: Format) -> Bytes {
        let public = self.with("RequestId", request_id.to_string());
        let name = public.secret.as_ref().map(|(name, _)| *name);
        let (head, rest) = format.around(action, public.fields, name);
        let Some((_, secret)) = public.secret else { return head.into() };
        let mut body = Zeroizing::new(vec![0; head.len() + secret.len()]);
        // Room for all of it at once: growing would leave a copy behind.
        body.reserve_exact(rest.len());
        body[..head.len()].copy_from_slice(head.as_bytes());
        secret.write(&mut body[head.len()..]);
        body.extend_from_slice(rest.as_bytes());
        Bytes::from_owner(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_more_field() {
        for len in [0, 1, 2, 3, 32, 64] {
            let secret = Secret::from_fn(len, |bytes| bytes.fill(7));
            let answer = Answer::new().with("KeyId", "k\"1").with_secret("Plaintext", secret);
            let body = answer.into_body(Uuid::nil(), "Do", Format::Json);
            let read: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read["Plaintext"], STANDARD.encode(vec![7; len]));
            assert_eq!(read["KeyId"], "k\"1");
            assert_eq!(read["RequestId"], "00000000-0000-0000-0000-000000000000");

            let secret = Secret::from_fn(len, |bytes| bytes.fill(7));
            let answer = Answer::new().with("KeyId", "k").with_secret("Plaintext", secret);
            let body = answer.into_body(Uuid::nil(), "Decrypt", Format::Xml);
            let text = String::from_utf8(body.to_vec()).unwrap();
            let expected = format!("<Plaintext>{}</Plaintext>", STANDARD.encode(vec![7; len]));
            assert!(text.contains(&format!("<DecryptResponse>{expected}<KeyId>k</KeyId>")));
        }
    }

    #[test]
    fn a_secret_text_stands_within_its_object() {
        for (format, expected) in [
            (Format::Json, r#"{"Key":{"Secret":"abc","Id":"k"},"RequestId":"0"#),
            (Format::Xml, "<Key><Secret>abc</Secret><Id>k</Id></Key><RequestId>0"),
        ] {
            let secret = Secret::from_fn(3, |bytes| bytes.copy_from_slice(b"abc"));
            let answer = Answer::new().with("Key", serde_json::json!({"Id": "k"}));
            let answer = answer.with_secret_text("Key.Secret", secret);
            let body = answer.into_body(Uuid::nil(), "Do", format);
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn lists_are_wrapped_twice() {
        let page = (Paging { number: 2, size: 10 }, 11, vec![Value::from("k")]);
        let body =
            Answer::new().with_page("Keys", "Key", page).into_body(Uuid::nil(), "Do", Format::Json);
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["Keys"]["Key"][0], "k");
        assert_eq!((&read["PageNumber"], &read["TotalCount"]), (&2.into(), &11.into()));
    }
}
