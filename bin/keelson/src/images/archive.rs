//! OCI image archives: layers as plain tar, written so that the same content gives the same bytes.

use anyhow::Result;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone)]
enum Entry {
    Directory(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// Files of an image, by absolute path. Parent directories are added by themselves.
#[derive(Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entries
            .insert(path.trim_start_matches('/').into(), Entry::Directory(mode));
    }

    pub fn file(&mut self, path: &str, content: &[u8], mode: u32) {
        self.entries.insert(
            path.trim_start_matches('/').into(),
            Entry::File(content.to_vec(), mode),
        );
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entries.insert(
            path.trim_start_matches('/').into(),
            Entry::Link(target.into()),
        );
    }

    pub fn merge(&mut self, other: Layer) {
        self.entries.extend(other.entries);
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut all: BTreeMap<String, Entry> = BTreeMap::new();
        for (path, entry) in &self.entries {
            for (i, _) in path.match_indices('/') {
                let parent = path.get(..i).unwrap_or_default();
                all.entry(parent.into()).or_insert(Entry::Directory(0o755));
            }
            all.insert(path.clone(), entry.clone());
        }
        let mut builder = tar::Builder::new(Vec::new());
        for (path, entry) in &all {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File(content, mode) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    builder.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// One image.
pub struct Image {
    /// Its full name with registry and tag, as pods refer to it.
    pub name: String,
    /// From the bottom up.
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Blobs {
    builder: tar::Builder<Vec<u8>>,
    written: BTreeSet<String>,
}

impl Blobs {
    fn add(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        Ok(self.builder.append_data(&mut header, path, content)?)
    }

    /// Adds content under its digest; a descriptor of it.
    fn blob(&mut self, kind: &str, content: &[u8]) -> Result<Value> {
        let digest = sha256(content);
        if self.written.insert(digest.clone()) {
            self.add(&format!("blobs/sha256/{digest}"), content)?;
        }
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()}))
    }
}

/// An archive (OCI image layout in a tar) with all these images.
pub fn write(images: &[Image]) -> Result<Vec<u8>> {
    let mut blobs = Blobs {
        builder: tar::Builder::new(Vec::new()),
        written: BTreeSet::new(),
    };
    blobs.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut manifests = Vec::new();
    for image in images {
        let mut layers = Vec::new();
        let mut differences = Vec::new();
        for layer in &image.layers {
            let tar = layer.tar()?;
            differences.push(format!("sha256:{}", sha256(&tar)));
            layers.push(blobs.blob("application/vnd.oci.image.layer.v1.tar", &tar)?);
        }
        let mut environment =
            vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string()];
        environment.extend(image.environment.iter().cloned());
        let mut config = json!({"Env": environment});
        if let Some(map) = config.as_object_mut() {
            if image.entrypoint.is_empty() {
                map.insert("Cmd".into(), json!(["sh"]));
            } else {
                map.insert("Entrypoint".into(), json!(image.entrypoint));
            }
        }
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": differences},
        });
        let config = blobs.blob(
            "application/vnd.oci.image.config.v1+json",
            &serde_json::to_vec(&config)?,
        )?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let mut descriptor = blobs.blob(kind, &serde_json::to_vec(&manifest)?)?;
        if let Some(map) = descriptor.as_object_mut() {
            let tag = image.name.rsplit_once(':').map_or("", |(_, t)| t);
            map.insert(
                "annotations".into(),
                json!({"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag}),
            );
        }
        manifests.push(descriptor);
    }
    blobs.add(
        "index.json",
        &serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests}))?,
    )?;
    Ok(blobs.builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut layer = Layer::default();
        layer.file("/a/b/c", b"x", 0o755);
        layer.link("/a/d", "b/c");
        Image {
            name: "keelson.local/x:1".into(),
            layers: vec![layer],
            entrypoint: vec!["/a/b/c".into()],
            environment: vec![],
        }
    }

    #[test]
    fn the_same_image_gives_the_same_bytes_and_every_digest_is_right() {
        let bytes = write(&[image(), image()]).unwrap();
        assert_eq!(bytes, write(&[image(), image()]).unwrap());
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, sha256(&content));
            }
            names.push(name);
        }
        // Two images of one content share all three blobs.
        assert_eq!(names.len(), 2 + 3, "{names:?}");
    }

    #[test]
    fn layers_hold_the_directories_above_their_files() {
        let tar = image().layers[0].tar().unwrap();
        let paths: Vec<String> = tar::Archive::new(tar.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(paths, ["a/", "a/b/", "a/b/c", "a/d"]);
    }
}
