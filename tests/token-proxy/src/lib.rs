//! A PKCS#11 module for tests: it forwards every call to a real one and fails by script.
//!
//! The script lies beside the library, whatever that is called: `a.so` obeys `a.script`, and what
//! it logs is in `a.calls`. So a test copies the library to a folder of its own, and several
//! copies in one process are several modules. The script is read again at each call; whoever
//! changes it puts a whole new file in its place. See `script.rs` for what it can say.

mod calls;
pub mod names;
pub mod script;

use std::ffi::{CStr, OsStr};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use script::{Behind, Deed, Script, Told};

struct Proxy {
    library: PathBuf,
    script: Mutex<Script>,
    real: Pkcs11Library,
    list: CK_FUNCTION_LIST,
    sessions: Mutex<Sessions>,
    /// Held by all for reading while they are in the real module: what happens behind a caller's
    /// back does not happen in the midst of another's call.
    inside: RwLock<()>,
}

struct Pkcs11Library {
    /// Kept loaded.
    _library: Pkcs11,
    list: *const CK_FUNCTION_LIST,
}

// SAFETY: the list is constant memory of a module that stays loaded, and PKCS#11 modules are
// called from several threads as they are: that is the caller's agreement with C_Initialize.
unsafe impl Send for Proxy {}
// SAFETY: as above.
unsafe impl Sync for Proxy {}

/// What was opened through this module.
#[derive(Default)]
struct Sessions {
    open: Vec<CK_SESSION_HANDLE>,
    slot: CK_SLOT_ID,
}

fn proxy() -> &'static Proxy {
    static PROXY: OnceLock<Proxy> = OnceLock::new();
    PROXY.get_or_init(|| Proxy::load().unwrap_or_else(|error| fail(&error)))
}

/// A script that cannot be followed is a fault of the test: it ends here, and says why.
fn fail(error: &str) -> ! {
    eprintln!("token proxy: {error}");
    std::process::abort()
}

fn real() -> &'static CK_FUNCTION_LIST {
    // SAFETY: see `Proxy::load`; the module stays loaded.
    unsafe { &*proxy().real.list }
}

impl Proxy {
    fn load() -> Result<Self, String> {
        let library = own_path()?;
        let script = Script::read(&text_of(&library)?)?;
        let module = script.module.as_ref().ok_or("the script names no module")?;
        // SAFETY: loading runs the module's initialisers; it is one that the test trusts.
        let loaded = unsafe { Pkcs11::new(module) };
        let loaded = loaded.map_err(|error| format!("{}: {error}", module.display()))?;
        let mut list = std::ptr::null_mut();
        // SAFETY: C_GetFunctionList fills in a pointer to a list that lives as long as the module.
        let answer = unsafe { loaded.C_GetFunctionList(&mut list) };
        if answer != CKR_OK || list.is_null() {
            return Err(format!("{}: no functions", module.display()));
        }
        Ok(Self {
            library,
            script: Mutex::new(script),
            real: Pkcs11Library { _library: loaded, list },
            list: calls::list(Some(C_GetFunctionList)),
            sessions: Mutex::default(),
            inside: RwLock::default(),
        })
    }

    /// The script as its file is at this moment.
    fn script(&self) -> MutexGuard<'_, Script> {
        let text = text_of(&self.library).unwrap_or_else(|error| fail(&error));
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        if !script.is(&text) {
            *script = Script::read(&text).unwrap_or_else(|error| fail(&error));
        }
        script
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, function: &str, answer: CK_RV) {
        let file = self.library.with_extension("calls");
        let line = format!("{function} {}\n", names::name(answer));
        let written = OpenOptions::new().create(true).append(true).open(file);
        written.and_then(|mut file| file.write_all(line.as_bytes())).unwrap_or_else(|error| {
            fail(&format!("the log of calls: {error}"));
        });
    }

    fn happen(&self, what: Behind) {
        let _alone = self.inside.write().unwrap_or_else(PoisonError::into_inner);
        let mut sessions = self.sessions();
        let null = std::ptr::null_mut();
        let real = real();
        match (what, real.C_Finalize, real.C_CloseAllSessions, real.C_Logout) {
            // SAFETY: no call is inside, and the argument is the one that is prescribed.
            (Behind::Finalize, Some(finalize), ..) => _ = unsafe { finalize(null) },
            // SAFETY: as above; the slot is one that the caller used.
            (Behind::CloseAllSessions, _, Some(close), _) => _ = unsafe { close(sessions.slot) },
            (Behind::Logout, .., Some(logout)) => {
                // SAFETY: as above; the session is one that the module gave out.
                sessions.open.last().map(|session| unsafe { logout(*session) });
            }
            _ => fail("the real module lacks a function"),
        }
        if what != Behind::Logout {
            sessions.open.clear();
        }
    }

    /// Waits until `limit` has passed or the script says something else.
    fn hang(&self, limit: Duration) {
        let text = text_of(&self.library);
        let start = Instant::now();
        while start.elapsed() < limit && text_of(&self.library) == text {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Calls the real module, unless the script knows better.
fn through(function: &str, arguments: &[CK_ULONG], call: impl FnOnce() -> CK_RV) -> CK_RV {
    let proxy = proxy();
    let (deed, is_logged, limit, changes, refusal) = {
        let mut script = proxy.script();
        let deed = script.next(function);
        let refusal = refusal(&script, function, arguments);
        let Script { flags, says_sessions, wrapped_room, ref told, .. } = *script;
        let changes = Changes { flags, says_sessions, wrapped_room, told: told.clone() };
        (deed, script.is_logged, script.sessions, changes, refusal)
    };
    let inside = || {
        if let Some(answer) = refusal {
            return answer;
        }
        let is_full = || limit.is_some_and(|limit| proxy.sessions().open.len() as u64 >= limit);
        if function == "C_OpenSession" && is_full() {
            return CKR_SESSION_COUNT;
        }
        let _inside = proxy.inside.read().unwrap_or_else(PoisonError::into_inner);
        let answer = call();
        if answer == CKR_OK {
            note(&mut proxy.sessions(), function, arguments, &changes);
        }
        answer
    };
    let answer = match deed {
        Some(Deed::Return(answer)) => answer,
        Some(Deed::After(answer)) => match inside() {
            CKR_OK => answer,
            other => other,
        },
        Some(Deed::Hang(limit)) => {
            proxy.hang(limit);
            inside()
        }
        Some(Deed::First(what)) => {
            proxy.happen(what);
            inside()
        }
        None => inside(),
    };
    if is_logged {
        proxy.log(function, answer);
    }
    answer
}

/// What a module of this kind does not take; for what it makes itself, makes it.
fn refusal(script: &Script, function: &str, arguments: &[CK_ULONG]) -> Option<CK_RV> {
    match (function, arguments) {
        ("C_OpenSession", [_, flags, ..])
            if script.is_read_write_only && flags & CKF_RW_SESSION == 0 =>
        {
            Some(CKR_FUNCTION_FAILED)
        }
        ("C_OpenSession", [_, flags, ..]) if script.is_read_only && flags & CKF_RW_SESSION != 0 => {
            Some(CKR_TOKEN_WRITE_PROTECTED)
        }
        ("C_EncryptInit", [_, mechanism, _]) if script.has_own_iv => {
            // SAFETY: the caller made it for this call.
            let mechanism = unsafe { &*(*mechanism as *const CK_MECHANISM) };
            if mechanism.mechanism != CKM_AES_GCM {
                return None;
            }
            // SAFETY: the parameter of this mechanism, made for this call.
            let gcm = unsafe { &*mechanism.pParameter.cast::<CK_GCM_PARAMS>() };
            let length = gcm.ulIvLen as usize;
            // SAFETY: the caller's buffer of that length, which PKCS#11 lets a module write to.
            let iv = unsafe { std::slice::from_raw_parts_mut(gcm.pIv, length) };
            if iv.iter().any(|byte| *byte != 0) {
                return Some(CKR_MECHANISM_PARAM_INVALID);
            }
            let fresh =
                std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(iv));
            fresh.err().map(|_| CKR_RANDOM_NO_RNG)
        }
        _ => None,
    }
}

/// What the script wants changed in answers.
struct Changes {
    flags: (CK_FLAGS, CK_FLAGS),
    says_sessions: Option<CK_ULONG>,
    wrapped_room: CK_ULONG,
    told: Vec<(CK_ATTRIBUTE_TYPE, Told)>,
}

/// Notes what a call that went well changed, and changes what the script wants changed.
fn note(sessions: &mut Sessions, function: &str, arguments: &[CK_ULONG], changes: &Changes) {
    match (function, arguments) {
        ("C_OpenSession", [slot, _, _, _, handle]) => {
            sessions.slot = *slot;
            // SAFETY: the real module has just written the new handle there.
            sessions.open.push(unsafe { *(*handle as *const CK_SESSION_HANDLE) });
        }
        ("C_CloseSession", [closed]) => sessions.open.retain(|open| open != closed),
        ("C_CloseAllSessions" | "C_Finalize", _) => sessions.open.clear(),
        ("C_GetTokenInfo", [_, info]) => {
            // SAFETY: the real module has just filled it in.
            let info = unsafe { &mut *(*info as *mut CK_TOKEN_INFO) };
            let (more, less) = changes.flags;
            info.flags = info.flags & !less | more;
            if let Some(sessions) = changes.says_sessions {
                info.ulMaxSessionCount = sessions;
            }
        }
        ("C_GetAttributeValue", [_, _, template, count]) => {
            let template = *template as *mut CK_ATTRIBUTE;
            // SAFETY: the caller's template of that length, which the real module has just filled.
            let template = unsafe { std::slice::from_raw_parts_mut(template, *count as usize) };
            template.iter_mut().for_each(|attribute| tell(attribute, &changes.told));
        }
        // Asked for the length alone.
        ("C_WrapKey", [_, _, _, _, 0, length]) => {
            // SAFETY: the real module has just written the length there.
            unsafe { *(*length as *mut CK_ULONG) += changes.wrapped_room };
        }
        _ => {}
    }
}

/// Tells of an attribute what the script says.
fn tell(attribute: &mut CK_ATTRIBUTE, told: &[(CK_ATTRIBUTE_TYPE, Told)]) {
    match told.iter().find(|(kind, _)| *kind == attribute.type_) {
        Some((_, Told::Nothing)) => attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION,
        Some((_, Told::Value(value)))
            if attribute.ulValueLen == 1 && !attribute.pValue.is_null() =>
        {
            // SAFETY: the caller's buffer of one byte.
            unsafe { *attribute.pValue.cast::<CK_BBOOL>() = (*value).into() };
        }
        _ => {}
    }
}

fn text_of(library: &Path) -> Result<String, String> {
    let path = library.with_extension("script");
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Where this library was loaded from.
fn own_path() -> Result<PathBuf, String> {
    // SAFETY: all zeros is a Dl_info.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    let inside = (C_GetFunctionList as *const ()).cast();
    // SAFETY: the address lies in this library, and `found` is ours.
    if unsafe { libc::dladdr(inside, &raw mut found) } == 0 || found.dli_fname.is_null() {
        return Err("no path of its own".to_owned());
    }
    // SAFETY: dladdr gave a string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Ok(Path::new(OsStr::from_bytes(name.to_bytes())).to_owned())
}

/// The entry of a PKCS#11 module.
///
/// # Safety
/// `list` is null or a place for a pointer.
#[allow(non_snake_case)]
// SAFETY: the name is PKCS#11's own, and nothing else in this library has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, so a place for a pointer. What it points to is only read: the standard has
    // no constant pointers.
    unsafe { *list = (&raw const proxy().list).cast_mut() };
    CKR_OK
}
