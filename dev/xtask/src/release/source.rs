//! The commit from which a release is made.

use anyhow::Result;

use crate::shell::{command, output};

/// The state of the repository.
pub(super) struct Source {
    pub(super) commit: String,
    /// Seconds since 1970. All files in the package get this time.
    pub(super) committed_at: String,
    /// Uncommitted changes, in the format of `git status --porcelain`.
    changed: String,
    /// The version tags of the commit.
    tags: Vec<String>,
    /// The commit that has the tag of this version.
    tagged: Option<String>,
}

impl Source {
    pub(super) fn read() -> Result<Self> {
        let git = |args: &[&str]| output(command("git").args(args));
        let tag = tag(super::VERSION);
        let exists = !git(&["tag", "--list", &tag])?.is_empty();
        let tagged = if exists {
            let commit = git(&["rev-list", "-n", "1", &tag])?;
            Some(commit.trim().to_owned())
        } else {
            None
        };
        let tags = git(&["tag", "--points-at", "HEAD", "--list", "v[0-9]*"])?;
        Ok(Self {
            commit: git(&["rev-parse", "HEAD"])?.trim().to_owned(),
            committed_at: git(&["log", "-1", "--format=%ct"])?.trim().to_owned(),
            changed: git(&["status", "--porcelain"])?,
            tags: tags.lines().map(str::to_owned).collect(),
            tagged,
        })
    }

    /// Returns the reason not to release this version from here. A commit without a tag is
    /// permitted, so that a release can be tried before it is tagged.
    pub(super) fn refusal(&self, version: &str) -> Option<String> {
        let commit = &self.commit;
        let expected = tag(version);
        if !self.changed.is_empty() {
            return Some(format!(
                "a release is built from a commit; commit or remove these changes first:\n{}",
                self.changed
            ));
        }
        if let Some(tag) = self.tags.iter().find(|tag| **tag != expected) {
            return Some(format!(
                "commit {commit} has the tag {tag}, but Cargo.toml has version {version}"
            ));
        }
        match &self.tagged {
            Some(tagged) if tagged != commit => Some(format!(
                "the tag {expected} is at commit {tagged}, not at {commit}: raise the version in \
                 Cargo.toml, or check out the tag"
            )),
            _ => None,
        }
    }
}

fn tag(version: &str) -> String {
    format!("v{version}")
}

#[cfg(test)]
pub(super) fn clean(commit: &str) -> Source {
    Source {
        commit: commit.to_owned(),
        committed_at: "1700000000".to_owned(),
        changed: String::new(),
        tags: Vec::new(),
        tagged: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_a_commit_with_its_own_tag_or_none() {
        let mut source = clean("c1");
        assert_eq!(source.refusal("0.1.0"), None);
        source.tags = vec!["v0.1.0".to_owned()];
        source.tagged = Some("c1".to_owned());
        assert_eq!(source.refusal("0.1.0"), None);
    }

    #[test]
    fn refuses_uncommitted_changes_and_lists_them() {
        let mut source = clean("c1");
        source.changed = " M Cargo.lock\n?? new.rs\n".to_owned();
        let refusal = source.refusal("0.1.0").unwrap();
        assert!(
            refusal.ends_with(":\n M Cargo.lock\n?? new.rs\n"),
            "{refusal}"
        );
    }

    #[test]
    fn refuses_a_tag_that_differs_from_the_version() {
        let mut source = clean("c1");
        source.tags = vec!["v0.1.0".to_owned(), "v0.2.0".to_owned()];
        assert_eq!(
            source.refusal("0.1.0").unwrap(),
            "commit c1 has the tag v0.2.0, but Cargo.toml has version 0.1.0"
        );
    }

    #[test]
    fn refuses_a_version_whose_tag_is_at_another_commit() {
        let mut source = clean("c2");
        source.tagged = Some("c1".to_owned());
        let refusal = source.refusal("0.1.0").unwrap();
        assert!(
            refusal.starts_with("the tag v0.1.0 is at commit c1, not at c2: "),
            "{refusal}"
        );
    }
}
