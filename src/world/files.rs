//! Files are written under a temporary name and renamed, so that a reader never sees half of one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} {path}")]
pub(crate) struct FileError {
    /// `cannot write`, `cannot create the folder` ...
    pub(crate) attempted: &'static str,
    /// Which file.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    pub(crate) source: std::io::Error,
}

/// Writes `bytes` to `path` by way of a temporary file in the same folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let fail = |attempted: &'static str| {
        let path = path.to_owned();
        move |source: std::io::Error| FileError {
            attempted,
            path,
            source,
        }
    };
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = std::fs::File::create(&temporary).map_err(fail("cannot write"))?;
    file.write_all(bytes).map_err(fail("cannot write"))?;
    file.sync_all().map_err(fail("cannot flush"))?;
    std::fs::rename(&temporary, path).map_err(fail("cannot rename the finished file to"))
}
