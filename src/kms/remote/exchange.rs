//! One request and its answer over a stream: what everybody here who asks an API needs.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::CONTENT_LENGTH;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer that came: its HTTP status, and its body in memory that is wiped.
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Sends `request` over `stream` and reads the answer, of at most `bytes_max` bytes.
///
/// # Errors
/// The connection's; an answer that is longer.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Answer, AnyError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer; an error on it shows in the answer as well.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    Ok(Answer { status, body: read_body(response, bytes_max).await? })
}

async fn read_body(
    response: Response<Incoming>,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, AnyError> {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    // Room for all of it at once: growing would leave copies behind.
    let mut kept = Zeroizing::new(Vec::with_capacity(bytes_max.min(length)));
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if kept.len() + data.len() > bytes_max {
            return Err("the answer is too long".into());
        }
        append(&mut kept, &data);
    }
    Ok(kept)
}

/// Appends, and wipes what a longer buffer leaves behind, where no length was told.
fn append(kept: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    if kept.capacity() - kept.len() < data.len() {
        let room = (2 * kept.capacity()).max(kept.len() + data.len());
        let mut larger = Zeroizing::new(Vec::with_capacity(room));
        larger.extend_from_slice(kept);
        *kept = larger;
    }
    kept.extend_from_slice(data);
}

/// Percent-encodes for a form, or for a query: RFC 3986's unreserved characters stay.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode("alias/a b~*+=ü"), "alias%2Fa%20b~%2A%2B%3D%C3%BC");
    }

    #[test]
    fn what_is_appended_is_all_there() {
        let mut kept = Zeroizing::new(Vec::new());
        for part in [&b"one"[..], b"", b"two, and longer", b"!"] {
            append(&mut kept, part);
        }
        assert_eq!(kept.as_slice(), b"onetwo, and longer!");
    }
}
