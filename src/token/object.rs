//! Keys in the token: how they are made, found again and known for what they are.
//!
//! One object for each key version. Its label says what it is for, to people; it is found by
//! CKA_ID, 16 random bytes. That it still is the recorded key is told by its check value: a
//! constant that was encrypted under it when it came to be. Not CKA_CHECK_VALUE: not every token
//! has one.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use super::failure::{Code, TokenError};
use super::gcm::{self, IV_BYTES, Sealed, TAG_BYTES};

/// Bytes of CKA_ID.
pub const ID_BYTES: usize = 16;

/// Bytes of an AES-256 key.
const KEY_BYTES: u64 = 32;

const CHECK_PLAIN: &[u8; 16] = b"sealdisk-check-1";
const CHECK_LABEL: &[u8] = b"sealdisk-kms/check/v1";

/// Bytes of a check value.
pub const CHECK_BYTES: usize = IV_BYTES + CHECK_PLAIN.len() + TAG_BYTES;

/// A key in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// CKA_ID.
    pub id: [u8; ID_BYTES],
    /// CKA_LABEL.
    pub label: String,
    /// What tells that it is this key and no other.
    pub check: Check,
}

/// A constant under a key: vector, ciphertext, tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check(pub [u8; CHECK_BYTES]);

/// What is asked of every key here, beside its class.
fn template(id: &[u8; ID_BYTES], label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// Makes a key in the token. The session is one that may write.
pub(super) fn generate(
    session: &Session,
    id: &[u8; ID_BYTES],
    label: &str,
) -> Result<Object, TokenError> {
    let mut wanted = template(id, label);
    wanted.push(Attribute::ValueLen(Ulong::new(KEY_BYTES)));
    wanted.push(Attribute::Modifiable(false));
    let made = narrowed(wanted, |wanted| session.generate_key(&Mechanism::AesKeyGen, wanted))?;
    // A key that may not be used must not stay.
    accept(session, made, (id, label), true).inspect_err(|_| drop(session.destroy_object(made)))
}

/// Makes a key of material that is wrapped under the pair `unwrapping`.
pub(super) fn unwrap(
    session: &Session,
    (mechanism, unwrapping): (&Mechanism<'_>, ObjectHandle),
    wrapped: &[u8],
    (id, label): (&[u8; ID_BYTES], &str),
) -> Result<Object, TokenError> {
    if !is_full_length(session, (mechanism, unwrapping), wrapped)? {
        return Err(TokenError::Weak { label: label.to_owned(), attribute: TOO_SHORT });
    }
    // Not CKA_MODIFIABLE: SoftHSM refuses it here.
    let made = narrowed(template(id, label), |wanted| {
        session.unwrap_key(mechanism, unwrapping, wrapped, wanted)
    })?;
    let accepted = accept(session, made, (id, label), false);
    accepted.inspect_err(|_| drop(session.destroy_object(made))).map_err(|error| match error {
        // Material of a length that AES has no keys of: SoftHSM takes it, and cannot use it.
        TokenError::Code(Code {
            code: RvError::MechanismInvalid | RvError::KeySizeRange | RvError::KeyTypeInconsistent,
            ..
        }) => TokenError::Weak { label: label.to_owned(), attribute: TOO_SHORT },
        error => error,
    })
}

/// Whether wrapped material has 256 bits. Not every token tells the length of what it unwrapped;
/// then a copy that lives in this session alone is wrapped under a key that the token makes for
/// this and forgets: the length of that is the material's and 8.
fn is_full_length(
    session: &Session,
    (mechanism, unwrapping): (&Mechanism<'_>, ObjectHandle),
    wrapped: &[u8],
) -> Result<bool, TokenError> {
    const WRAP_BYTES: usize = KEY_BYTES as usize + 8;
    let passing = |extractable, more: &[Attribute]| {
        let mut wanted = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(extractable),
        ];
        wanted.extend_from_slice(more);
        wanted
    };
    let copy = session.unwrap_key(mechanism, unwrapping, wrapped, &passing(true, &[]))?;
    let told = session.get_attributes(copy, &[AttributeType::ValueLen])?;
    if let [Attribute::ValueLen(length)] = told[..]
        && *length != 0
    {
        session.destroy_object(copy)?;
        return Ok(*length == KEY_BYTES);
    }
    let of_wrapper = [Attribute::Wrap(true), Attribute::ValueLen(Ulong::new(KEY_BYTES))];
    let wrapper = session.generate_key(&Mechanism::AesKeyGen, &passing(false, &of_wrapper))?;
    let again = session.wrap_key(&Mechanism::AesKeyWrap, wrapper, copy);
    session.destroy_object(wrapper)?;
    session.destroy_object(copy)?;
    match again {
        Ok(wrapped) => Ok(written_length(&wrapped) == WRAP_BYTES),
        Err(Error::Pkcs11(RvError::KeySizeRange, _)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How much of `wrapped` was written: the binding gives all the room that the token asked for. It
/// is made of blocks of 8 bytes that look random; one of zeros, but for once in 2^64, is room.
fn written_length(wrapped: &[u8]) -> usize {
    let used = wrapped.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    used.next_multiple_of(8)
}

/// Asks for a key that does GCM alone; where the token knows no such limit, without it.
fn narrowed(
    mut wanted: Vec<Attribute>,
    make: impl Fn(&[Attribute]) -> Result<ObjectHandle, Error>,
) -> Result<ObjectHandle, TokenError> {
    wanted.push(Attribute::AllowedMechanisms(vec![MechanismType::AES_GCM]));
    match make(&wanted).map_err(TokenError::from) {
        Err(TokenError::Code(code)) if code.is_bad_template() => {
            wanted.pop();
            Ok(make(&wanted)?)
        }
        made => made,
    }
}

/// Refuses a key that came out weaker; gives it its check value.
fn accept(
    session: &Session,
    key: ObjectHandle,
    (id, label): (&[u8; ID_BYTES], &str),
    is_born_here: bool,
) -> Result<Object, TokenError> {
    check_strength(session, key, label, is_born_here)?;
    let Sealed { iv, bytes } = gcm::seal(session, key, CHECK_LABEL, CHECK_PLAIN)?;
    let mut check = [0; CHECK_BYTES];
    check[..IV_BYTES].copy_from_slice(&iv);
    check[IV_BYTES..].copy_from_slice(&bytes);
    Ok(Object { id: *id, label: label.to_owned(), check: Check(check) })
}

/// The key of this id, if it is still the one that was recorded and as strong.
pub(super) fn find(session: &Session, object: &Object) -> Result<ObjectHandle, TokenError> {
    let label = || object.label.clone();
    let key = match secret_keys(session, &object.id)?[..] {
        [key] => key,
        [] => return Err(TokenError::Missing { label: label() }),
        _ => return Err(TokenError::Changed { label: label() }),
    };
    check_strength(session, key, &object.label, false)?;
    match fits(session, key, &object.check) {
        Ok(true) => Ok(key),
        Ok(false) => Err(TokenError::Changed { label: label() }),
        Err(TokenError::Code(code)) => Err(TokenError::Unverified { label: label(), code }),
        Err(error) => Err(error),
    }
}

/// Whether `check` was made by `key`.
pub(super) fn fits(
    session: &Session,
    key: ObjectHandle,
    check: &Check,
) -> Result<bool, TokenError> {
    let (iv, sealed) = check.0.split_first_chunk().ok_or(TokenError::Output)?;
    match gcm::open(session, key, *iv, CHECK_LABEL, sealed) {
        Ok(plain) => Ok(plain.is_some_and(|plain| plain.expose() == CHECK_PLAIN)),
        Err(TokenError::Code(code)) if code.is_bad_ciphertext() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The secret keys of this id.
pub(super) fn secret_keys(
    session: &Session,
    id: &[u8; ID_BYTES],
) -> Result<Vec<ObjectHandle>, TokenError> {
    let wanted = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Id(id.to_vec())];
    Ok(session.find_objects(&wanted)?)
}

/// Destroys all that has this id; how many that were.
pub(super) fn destroy(session: &Session, id: &[u8; ID_BYTES]) -> Result<usize, TokenError> {
    let found = session.find_objects(&[Attribute::Id(id.to_vec())])?;
    for object in &found {
        session.destroy_object(*object)?;
    }
    Ok(found.len())
}

/// Ids and labels of all objects of `class` whose label begins with `prefix`; at most `max`.
pub(super) fn labelled(
    session: &Session,
    class: ObjectClass,
    prefix: &str,
    max: usize,
) -> Result<Vec<([u8; ID_BYTES], String)>, TokenError> {
    let wanted = [AttributeType::Id, AttributeType::Label];
    let mut listed = Vec::new();
    for object in session.find_objects(&[Attribute::Class(class)])? {
        let (mut id, mut label) = (None, None);
        for attribute in session.get_attributes(object, &wanted)? {
            match attribute {
                Attribute::Id(bytes) => id = <[u8; ID_BYTES]>::try_from(bytes).ok(),
                Attribute::Label(bytes) => label = String::from_utf8(bytes).ok(),
                _ => {}
            }
        }
        // What has another form is not ours.
        if let (Some(id), Some(label)) = (id, label)
            && label.starts_with(prefix)
            && listed.len() < max
        {
            listed.push((id, label));
        }
    }
    Ok(listed)
}

/// What is said of a key of another size.
pub(super) const TOO_SHORT: &str = "not of 256 bits";

/// Reads back what the key became: some tokens take a template and do otherwise.
fn check_strength(
    session: &Session,
    key: ObjectHandle,
    label: &str,
    is_born_here: bool,
) -> Result<(), TokenError> {
    use AttributeType as T;
    let asked = [
        T::KeyType,
        T::ValueLen,
        T::Token,
        T::Private,
        T::Sensitive,
        T::Extractable,
        T::Modifiable,
        T::Sign,
        T::Verify,
        T::Wrap,
        T::Unwrap,
        T::Derive,
        T::AlwaysSensitive,
        T::NeverExtractable,
    ];
    let read = session.get_attributes(key, &asked)?;
    let weak = |attribute| Err(TokenError::Weak { label: label.to_owned(), attribute });
    // What is not told is not there: the answer leaves out what it has nothing to say of.
    let has = |wanted: &Attribute| read.contains(wanted);
    let needed = [
        (Attribute::KeyType(KeyType::AES), "no AES key"),
        (Attribute::Token(true), "not kept in the token"),
        (Attribute::Private(true), "not private"),
        (Attribute::Sensitive(true), "not sensitive"),
        (Attribute::Extractable(false), "extractable"),
    ];
    if let Some((_, what)) = needed.iter().find(|(attribute, _)| !has(attribute)) {
        return weak(what);
    }
    // These may go untold, but not be told wrong.
    let mut refused = vec![
        (Attribute::Sign(true), "able to sign"),
        (Attribute::Verify(true), "able to verify signatures"),
        (Attribute::Wrap(true), "able to wrap other keys"),
        (Attribute::Unwrap(true), "able to unwrap other keys"),
        (Attribute::Derive(true), "able to derive other keys"),
    ];
    if is_born_here {
        refused.extend([
            (Attribute::Modifiable(true), "modifiable"),
            (Attribute::AlwaysSensitive(false), "one that was not sensitive before"),
            (Attribute::NeverExtractable(false), "one that was extractable before"),
        ]);
    }
    if let Some((_, what)) = refused.iter().find(|(attribute, _)| has(attribute)) {
        return weak(what);
    }
    let length = read.iter().find_map(|attribute| match attribute {
        Attribute::ValueLen(length) => Some(**length),
        _ => None,
    });
    match length {
        // SoftHSM says 0 of what was unwrapped; its length is told by `is_full_length`.
        None | Some(0 | KEY_BYTES) => Ok(()),
        Some(_) => weak(TOO_SHORT),
    }
}

/// Label of the key that tells whether the token does its work.
pub(super) const PROBE_LABEL: &str = "acs/probe";

/// Asks the token to do what keys are there for; GetSessionInfo alone proves nothing. Half of the
/// probe: the other is to ask what the token is.
///
/// # Errors
/// [`TokenError::Missing`] if there is no probe key.
pub(super) fn probe(session: &Session) -> Result<(), TokenError> {
    let wanted = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(PROBE_LABEL.as_bytes().to_vec()),
    ];
    let missing = || TokenError::Missing { label: PROBE_LABEL.to_owned() };
    let key = *session.find_objects(&wanted)?.first().ok_or_else(missing)?;
    let sealed = gcm::seal(session, key, CHECK_LABEL, CHECK_PLAIN)?;
    let opened = gcm::open(session, key, sealed.iv, CHECK_LABEL, &sealed.bytes)?;
    match opened {
        Some(plain) if plain.expose() == CHECK_PLAIN => Ok(()),
        _ => Err(TokenError::Output),
    }
}
