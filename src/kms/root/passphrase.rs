//! A root key made of a passphrase (Argon2id, RFC 9106): nothing on the disk opens the catalog.
//!
//! Salt and costs are kept in the root record. They are bounded when read: a catalog that somebody
//! changed must not make a start take all memory.

use std::path::PathBuf;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use super::key::SoftwareKey;
use super::{KEY_BYTES, Loaded, Provider, RootError, credential, file, prompt};
use crate::catalog::RootRecord;
use crate::clock::Entropy;
use crate::secret::Secret;

/// Shortest passphrase of a new root key, in bytes.
pub const PASSPHRASE_BYTES_MIN: usize = 12;

/// Longest passphrase, in bytes; more of a file is not read.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Costs of a new root key: 64 MiB, 3 passes, 4 lanes, some 0.1 s (RFC 9106, second choice).
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
const SALT_BYTES: usize = 16;

/// Costs above these are no costs that we wrote.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// The provider `passphrase`.
#[derive(Clone, Debug)]
pub struct Passphrase {
    /// Where the passphrase comes from.
    pub source: Source,
}

/// Where a passphrase comes from. Never the command line: others see it.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file of mode 0600; its last line end does not count.
    File(PathBuf),
    /// A systemd credential.
    Credential(String),
    /// Whoever sits at the terminal.
    Prompt,
}

impl Passphrase {
    fn ask(&self, is_new: bool) -> Result<Secret, RootError> {
        let text = match &self.source {
            Source::File(path) => file::read_private(path, PASSPHRASE_BYTES_MAX)?,
            Source::Credential(name) => credential::read(name, PASSPHRASE_BYTES_MAX)?.1,
            Source::Prompt => prompt::ask(is_new, PASSPHRASE_BYTES_MAX)?,
        };
        Ok(without_line_end(&text))
    }
}

impl Provider for Passphrase {
    fn name(&self) -> &'static str {
        "passphrase"
    }

    fn place(&self) -> String {
        match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Credential(name) => format!("credential {name}"),
            Source::Prompt => "terminal".to_owned(),
        }
    }

    fn load(&self, known: Option<&RootRecord>, entropy: &dyn Entropy) -> Result<Loaded, RootError> {
        match known.filter(|known| known.provider == self.name()) {
            Some(known) => derive(&self.ask(false)?, &known.parameters),
            None => derive_new(&self.ask(true)?, entropy),
        }
    }

    fn prepare(
        &self,
        _: &RootRecord,
        given: Option<&Secret>,
        entropy: &dyn Entropy,
    ) -> Result<Loaded, RootError> {
        let given = given.ok_or(RootError::SecretNeeded { provider: self.name() })?;
        derive_new(&without_line_end(given), entropy)
    }

    fn promote(&self) -> Result<(), RootError> {
        // Whoever gave the new passphrase puts it where the next start finds it.
        Ok(())
    }
}

fn without_line_end(text: &Secret) -> Secret {
    let bytes = text.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    Secret::from_fn(bytes.len(), |kept| kept.copy_from_slice(bytes))
}

fn derive_new(passphrase: &Secret, entropy: &dyn Entropy) -> Result<Loaded, RootError> {
    if passphrase.len() < PASSPHRASE_BYTES_MIN {
        return Err(RootError::ShortPassphrase);
    }
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt);
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    derive(passphrase, &format!("argon2id,m={MEMORY_KIB},t={PASSES},p={LANES},salt={salt}"))
}

fn derive(passphrase: &Secret, parameters: &str) -> Result<Loaded, RootError> {
    let key = stretch(passphrase, parameters)?;
    Ok(Loaded { key: Box::new(SoftwareKey::new(key)), parameters: parameters.to_owned() })
}

fn stretch(passphrase: &Secret, parameters: &str) -> Result<Secret, RootError> {
    let (costs, salt) = read_parameters(parameters).ok_or(RootError::Corrupt)?;
    // Our own blocks, so that they can be wiped: they tell the key.
    let mut memory = vec![Block::new(); costs.block_count()];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, costs);
    let mut key = Secret::zeroed(KEY_BYTES);
    let derived = argon.hash_password_into_with_memory(
        passphrase.expose(),
        &salt,
        key.expose_mut(),
        &mut memory,
    );
    for block in &mut memory {
        block.as_mut().zeroize();
    }
    derived.map_err(|_| RootError::Corrupt)?;
    Ok(key)
}

fn read_parameters(text: &str) -> Option<(Params, [u8; SALT_BYTES])> {
    let mut fields = text.strip_prefix("argon2id,")?.split(',');
    let mut number = |name: &str, max: u32| {
        let value: u32 = fields.next()?.strip_prefix(name)?.parse().ok()?;
        (value <= max).then_some(value)
    };
    let memory = number("m=", MEMORY_KIB_MAX)?;
    let (passes, lanes) = (number("t=", PASSES_MAX)?, number("p=", LANES_MAX)?);
    let digits = fields.next()?.strip_prefix("salt=")?;
    if digits.len() != SALT_BYTES * 2 || !digits.is_ascii() || fields.next().is_some() {
        return None;
    }
    let mut salt = [0; SALT_BYTES];
    for (index, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some((Params::new(memory, passes, lanes, Some(KEY_BYTES)).ok()?, salt))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn a_passphrase_is_stretched_as_the_reference_program_does() {
        // By the reference implementation, through argon2-cffi.
        let expected = "b8e964bcad44ceb194cb36806a7f8054fcb26fabf7f5239e4159014701d0230a";
        let parameters = format!("argon2id,m=64,t=3,p=4,salt={}", "02".repeat(16));
        let text = b"correct horse battery";
        let passphrase = Secret::from_fn(text.len(), |out| out.copy_from_slice(text));
        let key = stretch(&passphrase, &parameters).unwrap();
        assert_eq!(super::super::key::to_hex(&key).expose()[..64], *expected.as_bytes());
    }

    #[test]
    fn parameters_that_we_never_wrote_are_refused() {
        let salt = "02".repeat(16);
        for text in [
            String::new(),
            "argon2id".into(),
            format!("argon2i,m=64,t=3,p=4,salt={salt}"),
            format!("argon2id,m=4194304,t=3,p=4,salt={salt}"),
            format!("argon2id,m=64,t=99,p=4,salt={salt}"),
            format!("argon2id,m=64,t=3,p=99,salt={salt}"),
            format!("argon2id,m=1,t=3,p=4,salt={salt}"),
            format!("argon2id,m=64,t=3,p=4,salt={salt},x=1"),
            format!("argon2id,m=64,t=3,p=4,salt={}", &salt[2..]),
            format!("argon2id,m=64,t=3,p=4,salt={}zz", &salt[2..]),
        ] {
            assert!(read_parameters(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_same_passphrase_and_salt_give_the_same_key() {
        let entropy = SeededEntropy::new(1);
        let passphrase = |text: &[u8]| Secret::from_fn(text.len(), |out| out.copy_from_slice(text));
        let made = derive_new(&passphrase(b"correct horse battery"), &entropy).unwrap();
        let again = derive(&passphrase(b"correct horse battery"), &made.parameters).unwrap();
        assert_eq!(made.key.id(), again.key.id());
        let other = derive(&passphrase(b"correct horse batterx"), &made.parameters).unwrap();
        assert_ne!(made.key.id(), other.key.id());
        let salted = derive_new(&passphrase(b"correct horse battery"), &entropy).unwrap();
        assert_ne!(made.key.id(), salted.key.id());
        let short = derive_new(&passphrase(b"short"), &entropy);
        assert!(matches!(short, Err(RootError::ShortPassphrase)));
    }
}
