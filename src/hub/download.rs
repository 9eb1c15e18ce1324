//! A whole model from one of the two hubs, or from the local Hugging Face cache, into a FunASR directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::card::{Card, CardFile, Repo};
use super::fetch::{Client, Fault, Job, Origin, Patience, discard, percent_encode};
use super::lock::{FileRecord, LockFile, create_dir, hash_file};
use super::{Hub, HubOptions};
use crate::Error;

/// Largest file that is accepted of a model whose card has no size.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// A FunASR directory with every file of `card`, and where they are from.
pub(super) fn obtain(card: &Card, options: &HubOptions) -> Result<(PathBuf, LockFile), Error> {
    if let Some(snapshot) = hf_snapshot(card, options)? {
        return Ok(snapshot);
    }
    let name = &card.name;
    if options.offline {
        let next = format!("run `funasr-candle models pull {name}` while online");
        return Err(Error::Hub(format!(
            "{name} is not installed and --offline forbids to download it: {next}"
        )));
    }
    let mut causes = Vec::new();
    for source in Source::choose(card, options) {
        match source.download(card) {
            Ok(found) => return Ok(found),
            Err(Fault::Stop(error)) => return Err(error),
            Err(Fault::Retry(cause) | Fault::Missing(cause) | Fault::Refused(cause)) => causes.push(cause),
        }
    }
    if causes.is_empty() {
        return Err(Error::Hub(format!(
            "{name} is not published on the chosen hub: choose the other one, or auto"
        )));
    }
    Err(Error::Hub(format!("cannot download {name}: {}", causes.join("; "))))
}

/// Where half and whole downloads of a model wait to be converted.
pub(super) fn download_dir(card: &Card, options: &HubOptions) -> PathBuf {
    options.home.join("downloads").join(&card.name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Site {
    HuggingFace,
    ModelScope,
}

/// One repository of one hub.
struct Source<'a> {
    site: Site,
    repo: &'a Repo,
    options: &'a HubOptions,
}

impl<'a> Source<'a> {
    /// The sources of `card` that the options allow, Hugging Face first.
    fn choose(card: &'a Card, options: &'a HubOptions) -> impl Iterator<Item = Self> {
        let huggingface = card.huggingface.as_ref().filter(|_| options.hub != Hub::ModelScope);
        let modelscope = card.modelscope.as_ref().filter(|_| options.hub != Hub::HuggingFace);
        let sites = [(Site::HuggingFace, huggingface), (Site::ModelScope, modelscope)];
        sites.into_iter().filter_map(move |(site, repo)| Some(Self { site, repo: repo?, options }))
    }

    fn name(&self) -> &'static str {
        match self.site {
            Site::HuggingFace => "huggingface",
            Site::ModelScope => "modelscope",
        }
    }

    fn url(&self, revision: &str, path: &str) -> String {
        let repo = percent_encode(&self.repo.repo, true);
        let revision = percent_encode(revision, false);
        match self.site {
            Site::HuggingFace => {
                let (endpoint, path) = (&self.options.hf_endpoint, percent_encode(path, true));
                format!("{endpoint}/{repo}/resolve/{revision}/{path}")
            }
            Site::ModelScope => {
                let (endpoint, path) = (&self.options.modelscope_endpoint, percent_encode(path, false));
                format!("{endpoint}/api/v1/models/{repo}/repo?Revision={revision}&FilePath={path}")
            }
        }
    }

    fn client(&self) -> Result<Client, Fault> {
        let patience = Patience { retry_delay: self.options.retry_delay, stall: self.options.stall_timeout };
        match self.site {
            Site::HuggingFace => {
                Client::new(&self.options.hf_endpoint, self.options.hf_token.clone(), patience)
            }
            Site::ModelScope => Client::new(&self.options.modelscope_endpoint, None, patience),
        }
    }

    /// Fetches what an earlier call or process has not fetched yet.
    fn download(&self, card: &Card) -> Result<(PathBuf, LockFile), Fault> {
        let dir = create_dir(download_dir(card, self.options).join(self.name()))?;
        let mut download = Download {
            source: self,
            client: self.client()?,
            lock: self.begun(card, &dir),
            dir,
            limit: card.approximate_mb.map_or(MAX_FILE_BYTES, |mb| u64::from(mb) * 2_000_000 + (64 << 20)),
        };
        for file in &card.files {
            match download.file(file) {
                Err(Fault::Missing(_)) if file.optional => {}
                fetched => fetched?,
            }
        }
        Ok((download.dir, download.lock))
    }

    /// The record of an interrupted download from the same place, or a new one.
    fn begun(&self, card: &Card, dir: &Path) -> LockFile {
        let fresh = LockFile::new(&card.name, self.name(), self.repo);
        let same = |old: &LockFile| old.repo == fresh.repo && old.revision == fresh.revision;
        LockFile::read(dir).ok().filter(same).unwrap_or(fresh)
    }
}

/// A download under way.
struct Download<'a> {
    source: &'a Source<'a>,
    client: Client,
    dir: PathBuf,
    lock: LockFile,
    limit: u64,
}

impl Download<'_> {
    /// Fetches `file` under the first of its names that the repository has.
    fn file(&mut self, file: &CardFile) -> Result<(), Fault> {
        let mut missing = None;
        for name in file.names() {
            match self.named(file, name) {
                Err(Fault::Missing(cause)) => missing = missing.or(Some(cause)),
                fetched => return fetched,
            }
        }
        Err(Fault::Missing(missing.unwrap_or_default()))
    }

    fn named(&mut self, file: &CardFile, name: &str) -> Result<(), Fault> {
        if self.has(name) {
            return Ok(());
        }
        let target = self.dir.join(name);
        if let Some(parent) = target.parent() {
            create_dir(parent.to_path_buf())?;
        }
        // All files come from the commit that the first one came from, even if the branch moves on meanwhile.
        let revision = self.lock.commit.as_ref().unwrap_or(&self.lock.revision);
        let job = Job {
            url: self.source.url(revision, name),
            label: format!("{} {}@{revision}: {name}", self.lock.hub, self.lock.repo),
            part: target.with_added_extension("part"),
            limit: self.limit,
            progress: &|done, total| self.source.options.progress.progress(name, done, total),
        };
        let origin = self.client.fetch(&job)?;
        let (size, sha256) = checked(&job, file, &origin)?;
        fs::rename(&job.part, &target).map_err(|e| Error::io(&target, e))?;
        discard(&job.part)?;
        let record = FileRecord { path: name.into(), url: Some(job.url), etag: origin.etag, size, sha256 };
        self.lock.commit = self.lock.commit.take().or(origin.commit);
        self.lock.sources.retain(|old| old.path != name);
        self.lock.sources.push(record);
        Ok(self.lock.write(&self.dir)?)
    }

    fn has(&self, name: &str) -> bool {
        let size = fs::metadata(self.dir.join(name)).ok().map(|m| m.len());
        self.lock.sources.iter().any(|record| record.path == name && Some(record.size) == size)
    }
}

/// Size and sha256 of a complete part, compared with the card and with what the hub declared.
fn checked(job: &Job, file: &CardFile, origin: &Origin) -> Result<(u64, String), Error> {
    let (size, sha256) = hash_file(&job.part)?;
    let expected = file.sha256.as_ref().or(origin.sha256.as_ref());
    match expected.filter(|expected| **expected != sha256) {
        None => Ok((size, sha256)),
        Some(expected) => {
            discard(&job.part)?;
            Err(Error::Hub(format!("{}: sha256 is {sha256}, expected {expected}; removed", job.label)))
        }
    }
}

/// The model in the local Hugging Face cache, if another program has put all of it there.
fn hf_snapshot(card: &Card, options: &HubOptions) -> Result<Option<(PathBuf, LockFile)>, Error> {
    let Some(source) = Source::choose(card, options).find(|source| source.site == Site::HuggingFace) else {
        return Ok(None);
    };
    let Some(cache) = options.hf_cache.clone() else { return Ok(None) };
    let Repo { repo, revision } = source.repo;
    let cached = hf_hub::Cache::new(cache).repo(hf_hub::Repo::with_revision(
        repo.clone(),
        hf_hub::RepoType::Model,
        revision.clone(),
    ));
    let mut lock = LockFile::new(&card.name, source.name(), source.repo);
    let mut snapshot = None;
    for file in &card.files {
        let Some((name, path)) = file.names().find_map(|name| Some((name, cached.get(name)?))) else {
            if file.optional {
                continue;
            }
            return Ok(None);
        };
        let Some(dir) = path.ancestors().nth(Path::new(name).components().count()) else { return Ok(None) };
        let commit =
            dir.file_name().map_or_else(|| revision.into(), |name| name.to_string_lossy().into_owned());
        let record = FileRecord { url: Some(source.url(&commit, name)), ..FileRecord::of(dir, name)? };
        if file.sha256.as_ref().is_some_and(|expected| *expected != record.sha256) {
            return Ok(None);
        }
        lock.commit = Some(commit);
        lock.sources.push(record);
        snapshot = Some(dir.to_path_buf());
    }
    Ok(snapshot.map(|dir| (dir, lock)))
}
