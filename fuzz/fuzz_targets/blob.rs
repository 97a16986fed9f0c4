//! Ciphertext blobs, which callers of the KMS hand in as they like.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::kms::KmsError;
use sealdisk::kms::blob;
use sealdisk::kms::context::Context;
use sealdisk::secret::Secret;
use sealdisk::token::Sealed;

/// Bytes before the initialisation vector, which go into the associated data.
const HEADER_BYTES: usize = 45;

fuzz_target!(|bytes: &[u8]| {
    let Some(blob) = blob::parse(bytes) else { return };
    assert_eq!(blob.version_id().as_bytes(), &bytes[..36]);
    // Every byte is either authenticated or part of what is decrypted.
    let opened = blob.open(&Context::new(), |iv, data, sealed| {
        assert!(data.windows(HEADER_BYTES).any(|part| part == &bytes[..HEADER_BYTES]));
        assert_eq!([&bytes[..HEADER_BYTES], &iv, sealed].concat(), bytes);
        Ok(None)
    });
    assert!(matches!(opened, Err(KmsError::InvalidParameter(_))));

    let (iv, sealed) = bytes[HEADER_BYTES..].split_first_chunk().expect("it was parsed");
    let sealed = Sealed { iv: *iv, bytes: sealed.to_vec() };
    let again = blob::seal(blob.version_id(), &Context::new(), |_| Ok(sealed));
    assert_eq!(again.expect("the context is empty"), bytes);
    let opened = blob.open(&Context::new(), |_, _, _| Ok(Some(Secret::zeroed(1))));
    assert!(opened.is_ok());
});
