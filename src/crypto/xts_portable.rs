//! AES-256-XTS in Rust alone: for targets without the fast engine, and its oracle in tests.
//!
//! The `aes` crate builds its round keys by value, so they lie on the heap, outside the secret
//! arena; they are wiped on drop, and the stack they passed over is wiped after expansion. Where
//! "no key in a dump" must hold, use the aws-lc engine.

use aes::Aes256;
use aes::cipher::KeyInit;
use aes::cipher::generic_array::GenericArray;
use xts_mode::Xts128;

use super::stack::with_wiped_stack;
use super::tweak::Tweak;
use crate::secret::Secret;

/// Both expanded keys.
pub(super) struct Schedules {
    cipher: Box<Xts128<Aes256>>,
}

impl Schedules {
    /// Expands `key`, which has 64 bytes.
    pub(super) fn expand(key: &Secret) -> Self {
        let (data_key, tweak_key) = key.expose().split_at(32);
        let cipher = with_wiped_stack(|| {
            let data_cipher = Aes256::new(GenericArray::from_slice(data_key));
            let tweak_cipher = Aes256::new(GenericArray::from_slice(tweak_key));
            Box::new(Xts128::new(data_cipher, tweak_cipher))
        });
        Self { cipher }
    }

    /// Encrypts one data unit of at least 16 bytes from `plain` to `cipher`, equally long.
    pub(super) fn encrypt(&self, tweak: &Tweak, plain: &[u8], cipher: &mut [u8]) {
        cipher.copy_from_slice(plain);
        self.encrypt_in_place(tweak, cipher);
    }

    /// Encrypts one data unit of at least 16 bytes.
    pub(super) fn encrypt_in_place(&self, tweak: &Tweak, data: &mut [u8]) {
        self.cipher.encrypt_sector(data, *tweak);
    }

    /// Decrypts one data unit of at least 16 bytes from `cipher` to `plain`, equally long.
    pub(super) fn decrypt(&self, tweak: &Tweak, cipher: &[u8], plain: &mut [u8]) {
        plain.copy_from_slice(cipher);
        self.decrypt_in_place(tweak, plain);
    }

    /// Decrypts one data unit of at least 16 bytes.
    pub(super) fn decrypt_in_place(&self, tweak: &Tweak, data: &mut [u8]) {
        self.cipher.decrypt_sector(data, *tweak);
    }
}
