//! An S3 endpoint over HTTP, a process of its own: `s3s-fs`, which keeps objects as files.

use super::contents;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const ACCESS_KEY: &str = "nightshift-test";
const SECRET_KEY: &str = "only-for-tests";

/// A server with one bucket, `bucket`, that ends when it is dropped.
pub struct S3 {
    /// Where it listens, such as `127.0.0.1:8014`.
    pub address: String,
    signed: bool,
    server: Child,
    folder: TempDir,
}

impl S3 {
    /// Starts a server that wants requests to be signed.
    pub fn start() -> Self {
        Self::start_server(true)
    }

    /// Starts a server that doesn't, so that something between can change requests.
    pub fn start_unsigned() -> Self {
        Self::start_server(false)
    }

    fn start_server(signed: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        let mut command = Command::new("s3s-fs");
        command.args(["--host", "127.0.0.1", "--port", "0"]).arg(folder.path());
        if signed {
            command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        }
        command.env("RUST_LOG", "s3s_fs=info").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = match command.spawn() {
            Ok(server) => server,
            Err(error) => panic!("s3s-fs, which ./test installs, can't be started: {error}"),
        };
        let mut printed = BufReader::new(server.stdout.take().unwrap()).lines();
        let address = printed.by_ref().find_map(|line| {
            line.unwrap().split_once("running at http://").map(|(_, address)| address.to_string())
        });
        // What else it prints must not fill the pipe.
        std::thread::spawn(move || printed.for_each(drop));
        Self { address: address.unwrap().trim().to_string(), signed, server, folder }
    }

    /// Where the bucket's objects are.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    /// The names of all objects whose names begin so.
    pub fn objects(&self, prefix: &str) -> Vec<String> {
        let bucket = self.bucket();
        let name = |path: &Path| path.strip_prefix(&bucket).unwrap().to_str().unwrap().to_string();
        let names = contents(&bucket).into_iter().map(|(path, _)| name(&path));
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Writes settings into a folder whose warehouse is in the bucket. `endpoint` is the server's address
    /// or that of something before it; `more` are options of the store.
    pub fn configure(&self, folder: &Path, endpoint: &str, more: &str) {
        let secret = folder.join("secret");
        std::fs::write(&secret, SECRET_KEY).unwrap();
        let identity = match self.signed {
            true => format!(
                "access_key_id = '{ACCESS_KEY}'\nsecret_access_key_file = '{}'",
                secret.display()
            ),
            false => "skip_signature = true".to_string(),
        };
        let settings = format!(
            "warehouse = 's3://bucket/warehouse'\nlocations = ['s3://bucket/raw']\n\n\
             [[store]]\nurl = 's3://bucket'\nendpoint = 'http://{endpoint}'\nregion = 'us-east-1'\n\
             {identity}\n{more}\n"
        );
        std::fs::write(folder.join("nightshift.toml"), settings).unwrap();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
