//! Certificate and key of the API over HTTPS, read again on request.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use zeroize::Zeroizing;

/// Largest certificate or key file that is read, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why certificate and key cannot be used. The fault of whoever configured them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// Others may read the private key.
    #[error("{}: mode {mode:03o} lets others read the private key; chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no PEM file with what is needed.
    #[error("{}: no {what} in PEM form ({error})", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What was found instead.
        error: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("{} with {}: {error}", certificate.display(), key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        error: rustls::Error,
    },
}

/// What connections are met with: the certificate that was read last.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads a certificate chain, the server's own first, and its private key of mode 0600.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what to do.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let acceptor = RwLock::new(read(certificate, key)?);
        Ok(Self { certificate: certificate.into(), key: key.into(), acceptor })
    }

    /// Reads both files again: connections from now on see what is there now.
    ///
    /// # Errors
    /// As [`Tls::load`]; the old certificate stays in use then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.certificate, &self.key)?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let at = |path: &Path, what| {
        let path = path.to_owned();
        move |error| TlsError::Pem { path, what, error }
    };
    let text = read_file(certificate, false)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(at(certificate, "certificate"))?;
    let text = read_file(key, true)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(at(key, "private key"))?;
    let unfit = |error| TlsError::Unfit { certificate: certificate.into(), key: key.into(), error };
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_file(path: &Path, is_private: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unreadable = |error| TlsError::Unreadable { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if is_private && mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once: growing would leave a copy of the key behind.
    let room = metadata.len().min(PEM_BYTES_MAX) as usize + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(PEM_BYTES_MAX).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}
