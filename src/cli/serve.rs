//! `sealdisk serve`: reads the configuration, starts the daemon, tells where it listens.

use std::path::{Path, PathBuf};

use super::arguments::Serve;
use super::disk::{Lines, shell_word};
use super::failure::Failure;
use super::output::{Output, render_fields};
use crate::config::{self, Config, ConfigError, Hsm, Mode};
use crate::daemon::{self, Ready};
use crate::secret::Protection;

/// Where development keeps its state unless told otherwise; clients look there first.
const DEVELOPMENT_DIR: &str = "sealdisk-data";

pub(super) fn run(serve: &Serve, output: &Output) -> Result<(), Failure> {
    let config = configuration(serve)?;
    let mode = config.mode;
    let mut told = Ok(());
    let mut announce = |ready: &Ready| told = output.print(&banner(ready, mode, output));
    daemon::run(&config, &mut announce).map_err(|error| Failure::new(error.to_string()))?;
    // A banner nobody reads is no reason to stop serving, nor to call the stop a failure.
    told.or_else(|failure| if failure.is_silent { Ok(()) } else { Err(failure) })
}

fn configuration(serve: &Serve) -> Result<Config, Failure> {
    let refused = |error: ConfigError| {
        Failure::usage(error.to_string())
            .hint("config/sealdisk.yaml shows every option with its default")
    };
    if let Some(file) = &serve.config {
        return config::load(file).map_err(refused);
    }
    let dir = serve.data_dir.clone().unwrap_or_else(|| DEVELOPMENT_DIR.into());
    let dir = std::path::absolute(&dir)
        .map_err(|error| Failure::new(format!("{}: {error}", dir.display())))?;
    let mut config = Config::development(dir).map_err(|error| Failure::usage(error.to_string()))?;
    if let Some(listen) = serve.nbd_tcp {
        config.nbd.tcp = listen.0;
    }
    if let Some(listen) = serve.http {
        config.api.http = listen.0;
    }
    config.hsm.extend(serve.hsm.clone().map(Hsm::new));
    config.check_http().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

fn banner(ready: &Ready, mode: Mode, output: &Output) -> String {
    let mut text = format!("sealdisk {} is serving\n\n", env!("CARGO_PKG_VERSION"));
    text.push_str(&indent(&render_fields(&listeners(ready))));
    text.push_str(&found(ready, output));
    if mode == Mode::Development {
        text.push('\n');
        text.push_str(&output.warning("FOR DEVELOPMENT ONLY. "));
        text.push_str(&development_warning(ready));
    }
    if ready.protection != Protection::SecretMemory {
        text.push('\n');
        text.push_str(&output.warning("Keys in memory are less well kept: "));
        text.push_str(match ready.protection {
            Protection::Locked => "this kernel has no secret memory, they are in locked memory.\n",
            _ => "they could not be locked (RLIMIT_MEMLOCK) and may reach swap.\n",
        });
    }
    if mode == Mode::Development {
        text.push_str("\nNext, in a second terminal:\n\n");
        text.push_str(&indent(&next_steps(ready, &program())));
    }
    text.push('\n');
    text
}

/// What the last run left behind, where there is something to say.
fn found(ready: &Ready, output: &Output) -> String {
    let recovery = &ready.recovery;
    let mut text = String::new();
    if recovery.reopened > 0 {
        text.push_str(&format!("\nDisks attached as before: {}\n", recovery.reopened));
    }
    for (disk, error) in &recovery.failed {
        let warning = output.warning(&format!("{disk} is attached but cannot be served: "));
        text.push_str(&format!("\n{warning}{error}\n"));
    }
    text
}

fn listeners(ready: &Ready) -> Vec<(&'static str, String)> {
    let endpoints = &ready.endpoints;
    let off = || "off".to_owned();
    let unix = |path: &Path| format!("unix:{}", path.display());
    let mut lines = vec![
        ("Data", endpoints.data_dir.display().to_string()),
        ("NBD", endpoints.nbd_unix.as_deref().map_or_else(off, unix)),
        ("", endpoints.nbd_tcp.map_or_else(off, |address| format!("tcp:{address}"))),
        ("API", unix(&endpoints.api_unix)),
    ];
    lines.extend(endpoints.https.map(|at| ("", format!("https://{at}/"))));
    lines.push(("HTTP", endpoints.http.map_or_else(off, |at| format!("http://{at}/"))));
    lines.extend(ready.hsms.iter().map(|hsm| ("HSM", hsm.clone())));
    let access_key = ready.access_key.iter();
    lines.extend(access_key.map(|file| ("Access key", file.display().to_string())));
    lines
}

fn development_warning(ready: &Ready) -> String {
    let made = if ready.root_key_created { "was made just now as" } else { "is" };
    format!(
        "The root key {made} a plain file beside the data:\n{}\nWhoever can read this directory \
         can read every disk in it; without the file nobody can.\n",
        ready.root_key
    )
}

/// Lines to paste. They name the program and the socket so that they work from where they are
/// pasted, not only from where we would like it.
fn next_steps(ready: &Ready, program: &str) -> String {
    let endpoints = &ready.endpoints;
    let mut lines = Vec::new();
    let usual = std::path::absolute(DEVELOPMENT_DIR).unwrap_or_default();
    if endpoints.data_dir != usual {
        let socket = shell_word(&endpoints.api_unix.to_string_lossy());
        lines.push(format!("export SEALDISK_ENDPOINT=unix:{socket}"));
    }
    lines.push(format!("{program} disk create --name db --size 10GiB --attach"));
    lines.push(format!("{program} disk list"));
    let unix = endpoints.nbd_unix.as_ref().map(|path| path.to_string_lossy());
    let tcp = endpoints.nbd_tcp.map(|address| address.to_string());
    let connect = Lines::new("db", unix.as_deref(), tcp.as_deref());
    lines.extend(connect.unix.or(connect.tcp).map(|uri| format!("qemu-img info '{uri}'")));
    lines.extend(connect.nbd_client);
    lines.join("\n") + "\n"
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// How to call this program: by name if the shell finds it, else by its path.
fn program() -> String {
    let here = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("sealdisk"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_found = std::env::split_paths(&path)
        .map(|dir| dir.join("sealdisk"))
        .find(|candidate| candidate.is_file())
        .and_then(|candidate| candidate.canonicalize().ok())
        .is_some_and(|found| here.canonicalize().is_ok_and(|here| here == found));
    if is_found { "sealdisk".to_owned() } else { shell_word(&here.to_string_lossy()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Endpoints;
    use crate::cli::output::Form;
    use crate::disk::Recovery;

    fn ready(data_dir: &str) -> Ready {
        let data_dir = PathBuf::from(data_dir);
        Ready {
            recovery: Recovery::default(),
            root_key: data_dir.join("root.key").display().to_string(),
            root_key_created: true,
            access_key: Some(data_dir.join("access-key.json")),
            hsms: Vec::new(),
            protection: Protection::SecretMemory,
            endpoints: Endpoints {
                nbd_unix: Some(data_dir.join("nbd.sock")),
                nbd_tcp: Some(config::NBD_TCP_DEFAULT),
                api_unix: data_dir.join("api.sock"),
                http: None,
                https: None,
                data_dir,
            },
        }
    }

    #[test]
    fn the_banner_says_what_listens_and_what_is_next() {
        let output = Output::new(Form::Table);
        let text = banner(&ready("/d"), Mode::Development, &output);
        let expected = format!(
            "sealdisk {} is serving\n\n  \
             Data        /d\n  NBD         unix:/d/nbd.sock\n              tcp:127.0.0.1:10809\n  \
             API         unix:/d/api.sock\n  HTTP        off\n  \
             Access key  /d/access-key.json\n\n",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains("FOR DEVELOPMENT ONLY"), "{text}");
        assert!(text.contains("/d/root.key\n"), "{text}");
        let next = next_steps(&ready("/d"), "sealdisk");
        assert_eq!(
            next,
            "export SEALDISK_ENDPOINT=unix:/d/api.sock\n\
             sealdisk disk create --name db --size 10GiB --attach\n\
             sealdisk disk list\n\
             qemu-img info 'nbd+unix:///db?socket=/d/nbd.sock'\n\
             sudo nbd-client -unix /d/nbd.sock -name db -block-size 4096 /dev/nbd0\n"
        );
    }

    #[test]
    fn production_is_told_no_steps_and_no_warning() {
        let output = Output::new(Form::Table);
        let text = banner(&ready("/d"), Mode::Production, &output);
        assert!(!text.contains("DEVELOPMENT") && !text.contains("Next"), "{text}");
    }

    #[test]
    fn the_usual_directory_needs_no_endpoint() {
        let usual = std::path::absolute(DEVELOPMENT_DIR).unwrap();
        let next = next_steps(&ready(&usual.to_string_lossy()), "sealdisk");
        assert!(next.starts_with("sealdisk disk create"), "{next}");
    }
}
