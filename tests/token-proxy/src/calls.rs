//! Every function of PKCS#11 2.40, through the script to the real module.

use cryptoki_sys::*;

use crate::{real, through};

type Session = CK_SESSION_HANDLE;
type Object = CK_OBJECT_HANDLE;
type Slot = CK_SLOT_ID;
type Word = CK_ULONG;
type Bytes = *mut CK_BYTE;
type Mechanism = *mut CK_MECHANISM;
type Template = *mut CK_ATTRIBUTE;
type Void = *mut std::os::raw::c_void;

/// An argument as `through` sees it.
trait Argument {
    fn word(&self) -> Word;
}

impl Argument for Word {
    fn word(&self) -> Word {
        *self
    }
}

impl Argument for CK_BBOOL {
    fn word(&self) -> Word {
        (*self).into()
    }
}

impl<T> Argument for *mut T {
    fn word(&self) -> Word {
        *self as Word
    }
}

impl Argument for CK_NOTIFY {
    fn word(&self) -> Word {
        0
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*);)+) => {
        $(
            #[allow(non_snake_case)]
            unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                through(stringify!($name), &[$($argument.word()),*], || match real().$name {
                    // SAFETY: the arguments are of the type that both functions have, and the
                    // caller made them for this call.
                    Some(call) => unsafe { call($($argument),*) },
                    None => CKR_FUNCTION_NOT_SUPPORTED,
                })
            }
        )+

        /// The functions above, and `own` as C_GetFunctionList.
        pub(crate) fn list(own: CK_C_GetFunctionList) -> CK_FUNCTION_LIST {
            CK_FUNCTION_LIST {
                version: CK_VERSION { major: 2, minor: 40 },
                C_GetFunctionList: own,
                $($name: Some($name)),+
            }
        }
    };
}

forward! {
    C_Initialize(a: Void);
    C_Finalize(a: Void);
    C_GetInfo(a: *mut CK_INFO);
    C_GetSlotList(a: CK_BBOOL, b: *mut Slot, c: *mut Word);
    C_GetSlotInfo(a: Slot, b: *mut CK_SLOT_INFO);
    C_GetTokenInfo(a: Slot, b: *mut CK_TOKEN_INFO);
    C_GetMechanismList(a: Slot, b: *mut CK_MECHANISM_TYPE, c: *mut Word);
    C_GetMechanismInfo(a: Slot, b: CK_MECHANISM_TYPE, c: *mut CK_MECHANISM_INFO);
    C_InitToken(a: Slot, b: Bytes, c: Word, d: Bytes);
    C_InitPIN(a: Session, b: Bytes, c: Word);
    C_SetPIN(a: Session, b: Bytes, c: Word, d: Bytes, e: Word);
    C_OpenSession(a: Slot, b: CK_FLAGS, c: Void, d: CK_NOTIFY, e: *mut Session);
    C_CloseSession(a: Session);
    C_CloseAllSessions(a: Slot);
    C_GetSessionInfo(a: Session, b: *mut CK_SESSION_INFO);
    C_GetOperationState(a: Session, b: Bytes, c: *mut Word);
    C_SetOperationState(a: Session, b: Bytes, c: Word, d: Object, e: Object);
    C_Login(a: Session, b: CK_USER_TYPE, c: Bytes, d: Word);
    C_Logout(a: Session);
    C_CreateObject(a: Session, b: Template, c: Word, d: *mut Object);
    C_CopyObject(a: Session, b: Object, c: Template, d: Word, e: *mut Object);
    C_DestroyObject(a: Session, b: Object);
    C_GetObjectSize(a: Session, b: Object, c: *mut Word);
    C_GetAttributeValue(a: Session, b: Object, c: Template, d: Word);
    C_SetAttributeValue(a: Session, b: Object, c: Template, d: Word);
    C_FindObjectsInit(a: Session, b: Template, c: Word);
    C_FindObjects(a: Session, b: *mut Object, c: Word, d: *mut Word);
    C_FindObjectsFinal(a: Session);
    C_EncryptInit(a: Session, b: Mechanism, c: Object);
    C_Encrypt(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_EncryptUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_EncryptFinal(a: Session, b: Bytes, c: *mut Word);
    C_DecryptInit(a: Session, b: Mechanism, c: Object);
    C_Decrypt(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DecryptUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DecryptFinal(a: Session, b: Bytes, c: *mut Word);
    C_DigestInit(a: Session, b: Mechanism);
    C_Digest(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DigestUpdate(a: Session, b: Bytes, c: Word);
    C_DigestKey(a: Session, b: Object);
    C_DigestFinal(a: Session, b: Bytes, c: *mut Word);
    C_SignInit(a: Session, b: Mechanism, c: Object);
    C_Sign(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_SignUpdate(a: Session, b: Bytes, c: Word);
    C_SignFinal(a: Session, b: Bytes, c: *mut Word);
    C_SignRecoverInit(a: Session, b: Mechanism, c: Object);
    C_SignRecover(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_VerifyInit(a: Session, b: Mechanism, c: Object);
    C_Verify(a: Session, b: Bytes, c: Word, d: Bytes, e: Word);
    C_VerifyUpdate(a: Session, b: Bytes, c: Word);
    C_VerifyFinal(a: Session, b: Bytes, c: Word);
    C_VerifyRecoverInit(a: Session, b: Mechanism, c: Object);
    C_VerifyRecover(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DigestEncryptUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DecryptDigestUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_SignEncryptUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_DecryptVerifyUpdate(a: Session, b: Bytes, c: Word, d: Bytes, e: *mut Word);
    C_GenerateKey(a: Session, b: Mechanism, c: Template, d: Word, e: *mut Object);
    C_GenerateKeyPair(a: Session, b: Mechanism, c: Template, d: Word,
        e: Template, f: Word, g: *mut Object, h: *mut Object);
    C_WrapKey(a: Session, b: Mechanism, c: Object, d: Object, e: Bytes, f: *mut Word);
    C_UnwrapKey(a: Session, b: Mechanism, c: Object, d: Bytes,
        e: Word, f: Template, g: Word, h: *mut Object);
    C_DeriveKey(a: Session, b: Mechanism, c: Object, d: Template, e: Word, f: *mut Object);
    C_SeedRandom(a: Session, b: Bytes, c: Word);
    C_GenerateRandom(a: Session, b: Bytes, c: Word);
    C_GetFunctionStatus(a: Session);
    C_CancelFunction(a: Session);
    C_WaitForSlotEvent(a: CK_FLAGS, b: *mut Slot, c: Void);
}
