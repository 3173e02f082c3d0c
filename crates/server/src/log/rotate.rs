//! A log file that begins anew when it has grown large, and what becomes of the old ones.
//!
//! Names, limits and the form of the settings are those of lumberjack: the old file gets the time before
//! its extension, is gzipped if asked for, and goes when there are too many or it is too old.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::civil;
use crate::sys;

/// Size at which a file is full when nothing is said.
const MAX_SIZE_MB: u64 = 100;
/// What a new file may be read and written by when there is no old one to take it from.
const MODE: u32 = 0o600;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `--log-rotation-config-json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Megabytes after which a new file begins.
    pub max_size_mb: u64,
    /// Days that old files are kept; 0 for ever.
    pub max_age_days: u64,
    /// How many are kept; 0 for all.
    pub max_backups: usize,
    /// Local time in their names, not UTC.
    pub local_time: bool,
    /// Gzip them.
    pub compress: bool,
}

impl Settings {
    /// Reads them; unknown keys are passed over.
    ///
    /// # Errors
    /// In the original's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        use serde_json::Value;
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let why = match error.is_eof() {
                true => "unexpected end of JSON input".to_owned(),
                false => error.to_string(),
            };
            format!("improperly formatted log rotation config: {why}")
        })?;
        let kind = |value: &Value| match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) => format!("number {number}"),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let wrong = |value: &Value, place: &str, wanted: &str| {
            let kind = kind(value);
            let kind = match wanted {
                "int" => kind.as_str(),
                _ => kind.split(' ').next().unwrap_or_default(),
            };
            format!(
                "invalid log rotation config: json: cannot unmarshal {kind} into Go {place} of type {wanted}"
            )
        };
        let Value::Object(map) = &value else {
            if value.is_null() {
                return Settings::parse("{}");
            }
            return Err(wrong(&value, "value", "embed.logRotationConfig"));
        };
        let mut settings = Settings {
            max_size_mb: MAX_SIZE_MB,
            max_age_days: 0,
            max_backups: 0,
            local_time: false,
            compress: false,
        };
        for (key, value) in map {
            let key = key.to_ascii_lowercase();
            let place = format!("struct field logRotationConfig.Logger.{key}");
            let number = || match value {
                Value::Null => Ok(0),
                // Below nothing is no limit, as the original's comparisons have it.
                _ => value
                    .as_i64()
                    .map(|number| u64::try_from(number).unwrap_or(0))
                    .ok_or_else(|| wrong(value, &place, "int")),
            };
            let flag = || match value {
                Value::Null => Ok(false),
                _ => value.as_bool().ok_or_else(|| wrong(value, &place, "bool")),
            };
            match key.as_str() {
                "maxsize" => {
                    settings.max_size_mb = match number()? {
                        0 => MAX_SIZE_MB,
                        size => size,
                    }
                }
                "maxage" => settings.max_age_days = number()?,
                "maxbackups" => {
                    settings.max_backups = usize::try_from(number()?).unwrap_or(usize::MAX);
                }
                "localtime" => settings.local_time = flag()?,
                "compress" => settings.compress = flag()?,
                _ => {}
            }
        }
        Ok(settings)
    }

    fn max_bytes(&self) -> u64 {
        self.max_size_mb.saturating_mul(1 << 20)
    }
}

/// The file that is written now.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    settings: Settings,
    file: File,
    size: u64,
    max_bytes: u64,
}

impl Rotating {
    /// Goes on with the file that is there, or begins one, with the folders it lies in.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, settings: Settings) -> io::Result<Self> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)?;
        }
        let (file, size) = append(path, MODE)?;
        Ok(Rotating {
            path: path.to_owned(),
            max_bytes: settings.max_bytes(),
            settings,
            file,
            size,
        })
    }

    /// Writes one line, into a new file if the old one has no room.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    /// Opens what has the name now: whoever renamed the file wants a new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size) = append(&self.path, MODE)?;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = std::fs::metadata(&self.path).ok();
        if old.is_some() {
            std::fs::rename(&self.path, self.backup_path(SystemTime::now()))?;
        }
        let mode = old.as_ref().map_or(MODE, |old| old.mode() & 0o7777);
        (self.file, self.size) = append(&self.path, mode)?;
        if let Some(old) = old {
            // Only a privileged process can give files away; who cannot keeps its own.
            let _kept = std::os::unix::fs::chown(&self.path, Some(old.uid()), Some(old.gid()));
        }
        // Files that cannot be tidied are tried again at the next turn.
        let _later = tidy(&self.path, &self.settings, SystemTime::now());
        Ok(())
    }

    fn backup_path(&self, now: SystemTime) -> PathBuf {
        let offset = match self.settings.local_time {
            true => sys::local_offset_seconds(now),
            false => 0,
        };
        let (prefix, extension) = parts(&self.path);
        self.path
            .with_file_name(format!("{prefix}{}{extension}", stamp(now, offset)))
    }
}

fn append(path: &Path, mode: u32) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// `etcd.log` is `etcd-` before the time and `.log` after it.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, extension) = match name.rfind('.') {
        Some(dot) => name.split_at(dot),
        None => (&*name, ""),
    };
    (format!("{stem}-"), extension.to_owned())
}

/// `2006-01-02T15-04-05.000`
fn stamp(at: SystemTime, offset_seconds: i64) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().saturating_add_signed(offset_seconds);
    let (year, month, day) = civil(seconds / 86_400);
    let second = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}.{:03}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// An old file.
struct Backup {
    path: PathBuf,
    stamp: String,
    compressed: bool,
}

fn backups(path: &Path) -> io::Result<Vec<Backup>> {
    let (prefix, extension) = parts(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (bare, compressed) = match name.strip_suffix(".gz") {
            Some(bare) => (bare, true),
            None => (name.as_str(), false),
        };
        let stamp = bare
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(&extension))
            .filter(|stamp| is_stamp(stamp));
        if let Some(stamp) = stamp {
            found.push(Backup {
                path: entry.path(),
                stamp: stamp.to_owned(),
                compressed,
            });
        }
    }
    // Newest first: the form of the time sorts like the time.
    found.sort_by(|a, b| b.stamp.cmp(&a.stamp));
    Ok(found)
}

fn is_stamp(text: &str) -> bool {
    let form = b"0000-00-00T00-00-00.000";
    text.len() == form.len()
        && text.bytes().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        })
}

/// Removes what is too much or too old, and compresses what stays.
fn tidy(path: &Path, settings: &Settings, now: SystemTime) -> io::Result<()> {
    if settings.max_backups == 0 && settings.max_age_days == 0 && !settings.compress {
        return Ok(());
    }
    let offset = match settings.local_time {
        true => sys::local_offset_seconds(now),
        false => 0,
    };
    let age = DAY.saturating_mul(u32::try_from(settings.max_age_days).unwrap_or(u32::MAX));
    let oldest = (settings.max_age_days > 0)
        .then(|| now.checked_sub(age))
        .flatten()
        .map(|oldest| stamp(oldest, offset));
    let mut kept: Vec<String> = Vec::new();
    for backup in backups(path)? {
        if !kept.contains(&backup.stamp) {
            kept.push(backup.stamp.clone());
        }
        let too_many = settings.max_backups > 0 && kept.len() > settings.max_backups;
        let too_old = oldest.as_ref().is_some_and(|oldest| backup.stamp < *oldest);
        if too_many || too_old {
            std::fs::remove_file(&backup.path)?;
        } else if settings.compress && !backup.compressed {
            compress(&backup.path)?;
        }
    }
    Ok(())
}

/// The compressed file is whole before the other one goes.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let target = PathBuf::from(target);
    let mut source = File::open(path)?;
    let metadata = source.metadata()?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(metadata.mode() & 0o7777)
        .open(&target)?;
    let _kept = std::os::unix::fs::chown(&target, Some(metadata.uid()), Some(metadata.gid()));
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    let written = io::copy(&mut source, &mut gzip).and_then(|_| gzip.finish().map(drop));
    if let Err(error) = written {
        let _gone = std::fs::remove_file(&target);
        return Err(error);
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn settings_are_lumberjacks() {
        let default = Settings::parse(
            r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        );
        assert_eq!(default, Settings::parse("{}"));
        let given = Settings::parse(
            r#"{"MaxSize":1,"maxage":2,"maxbackups":3,"localtime":true,"compress":true,"x":1}"#,
        );
        assert_eq!(
            given,
            Ok(Settings {
                max_size_mb: 1,
                max_age_days: 2,
                max_backups: 3,
                local_time: true,
                compress: true,
            })
        );
        for (text, error) in [
            (
                r#"{"maxsize": true}"#,
                "invalid log rotation config: json: cannot unmarshal bool into Go struct field logRotationConfig.Logger.maxsize of type int",
            ),
            (
                r#"{"maxage": 1.5}"#,
                "invalid log rotation config: json: cannot unmarshal number 1.5 into Go struct field logRotationConfig.Logger.maxage of type int",
            ),
            (
                r#"{"compress": 1}"#,
                "invalid log rotation config: json: cannot unmarshal number into Go struct field logRotationConfig.Logger.compress of type bool",
            ),
            (
                r#"{"maxsize": true"#,
                "improperly formatted log rotation config: unexpected end of JSON input",
            ),
        ] {
            assert_eq!(Settings::parse(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_full_file_gets_a_stamp_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sub/etcd.log");
        let mut settings =
            Settings::parse(r#"{"maxbackups": 2, "compress": true}"#).expect("valid");
        settings.max_size_mb = 1;
        let mut log = Rotating::open(&path, settings.clone()).expect("a log");
        log.max_bytes = 20;
        for line in 0..5 {
            log.write(format!("line {line} of twelve\n").as_bytes())
                .expect("written");
            // Stamps have milliseconds.
            std::thread::sleep(Duration::from_millis(3));
        }
        let found = names(path.parent().expect("a folder"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[2], "etcd.log");
        for (name, line) in found
            .iter()
            .zip(["line 2 of twelve\n", "line 3 of twelve\n"])
        {
            assert!(
                name.starts_with("etcd-20") && name.ends_with(".log.gz"),
                "{name}"
            );
            let file = File::open(path.with_file_name(name)).expect("there");
            let mut text = String::new();
            flate2::read::GzDecoder::new(file)
                .read_to_string(&mut text)
                .expect("gzip");
            assert_eq!(text, line);
        }
        assert_eq!(
            std::fs::read_to_string(&path).expect("there"),
            "line 4 of twelve\n"
        );
        // What is there is gone on with, and its size counts.
        let mut log = Rotating::open(&path, settings).expect("a log");
        assert_eq!(log.size, 17);
        log.write(b"more\n").expect("written");
        assert_eq!(
            std::fs::read_to_string(&path).expect("there"),
            "line 4 of twelve\nmore\n"
        );
    }

    #[test]
    fn files_go_by_age_and_those_of_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("etcd.log");
        for name in [
            "etcd-2020-01-01T00-00-00.000.log",
            "etcd-2020-01-01T00-00-00.000.log.gz",
            "etcd-2020-01-03T00-00-00.000.log",
            "etcd-notes.log",
            "etcd.log",
        ] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let settings = Settings::parse(r#"{"maxage": 1}"#).expect("valid");
        let now = UNIX_EPOCH + Duration::from_secs(1_578_052_800); // 2020-01-03T12:00:00Z
        tidy(&path, &settings, now).expect("tidied");
        assert_eq!(
            names(dir.path()),
            [
                "etcd-2020-01-03T00-00-00.000.log",
                "etcd-notes.log",
                "etcd.log"
            ]
        );
    }
}
