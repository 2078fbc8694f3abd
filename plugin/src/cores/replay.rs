//! Step 3: which of our answers the kubelet keeps, and gives again whenever the container is made anew.
//!
//! It keeps them in the device manager's checkpoint, with the token in them: the one place that names an
//! allocation exactly, for init containers too, and by which the kubelet itself goes after a restart. Written
//! anew with each allocation and each change of a device's health, so what is gone may linger there.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::ByteString;
use prost::Message as _;
use quietcore_proto::deviceplugin::ContainerAllocateResponse;
use serde::Deserialize;

use super::{
    device_plugin::RESOURCE,
    token::{ANNOTATION, Token},
};

/// In the kubelet's folder of device plugins.
pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("read the kubelet's checkpoint of devices {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no checkpoint of devices: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: the answer for container {container} of pod {pod_uid} is none of ours: {why}")]
    Answer { path: PathBuf, pod_uid: String, container: String, why: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// Go writes an empty list as null.
    pod_device_entries: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    /// The answer to Allocate.
    #[serde(rename = "AllocResp")]
    answer: Option<ByteString>,
}

pub fn read(path: &Path) -> Result<BTreeSet<Token>, ReplayError> {
    let text = fs::read(path).map_err(|source| ReplayError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// The checksum is not looked at: the kubelet replaces the file as a whole, and refuses a damaged one itself.
fn parse(path: &Path, text: &[u8]) -> Result<BTreeSet<Token>, ReplayError> {
    let path = || path.to_owned();
    let checkpoint: Checkpoint =
        serde_json::from_slice(text).map_err(|source| ReplayError::Json { path: path(), source })?;
    let entries = checkpoint.data.pod_device_entries.unwrap_or_default();
    let ours = entries.into_iter().filter(|entry| entry.resource == RESOURCE);
    let tokens = ours.map(|entry| {
        token(entry.answer).map_err(|why| ReplayError::Answer {
            path: path(),
            pod_uid: entry.pod_uid,
            container: entry.container,
            why,
        })
    });
    tokens.collect()
}

fn token(answer: Option<ByteString>) -> Result<Token, String> {
    let ByteString(bytes) = answer.ok_or("it is empty")?;
    let answer = ContainerAllocateResponse::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    let token = answer.annotations.get(ANNOTATION).ok_or("it has no token")?;
    Ok(Token::of(token))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// As a kubelet 1.36 writes it for two containers, one of them with a device of somebody else.
    const CHECKPOINT: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"9f3c2d0e-58c6-4d1c-8a55-0f6c0b7b9a11","ContainerName":"app","ResourceName":"quietcore.io/core","DeviceIDs":{"-1":["core-1"]},"AllocResp":"Ih4KGGdyYW50LnF1aWV0Y29yZS5pby90b2tlbhICYWI="},{"PodUID":"9f3c2d0e-58c6-4d1c-8a55-0f6c0b7b9a11","ContainerName":"app","ResourceName":"vendor.com/nic","DeviceIDs":{"0":["nic0"]},"AllocResp":""}],"RegisteredDevices":{"quietcore.io/core":["core-1","core-2"]}},"Checksum":2933437532}"#;

    #[track_caller]
    fn check(text: &str, expect: Expect) {
        let tokens = parse(Path::new("/f"), text.as_bytes());
        let text =
            |tokens: BTreeSet<Token>| tokens.iter().map(|token| format!("{}\n", token.as_str())).collect();
        expect.assert_eq(&tokens.map_or_else(|error| error.to_string(), text));
    }

    #[test]
    fn the_tokens_of_our_answers_are_read() {
        check(
            CHECKPOINT,
            expect![[r#"
            ab
        "#]],
        );
        check(r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#, expect![""]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_never_nothing() {
        check("", expect!["/f is no checkpoint of devices: EOF while parsing a value at line 1 column 0"]);
        let broken = CHECKPOINT.replace("\"Ih4K", "\"Ih4?");
        check(
            &broken,
            expect!["/f is no checkpoint of devices: Invalid symbol 63, offset 3. at line 1 column 223"],
        );
        let bare = CHECKPOINT.replace("\"AllocResp\":\"Ih", "\"Other\":\"Ih");
        check(
            &bare,
            expect![
                "/f: the answer for container app of pod 9f3c2d0e-58c6-4d1c-8a55-0f6c0b7b9a11 is none of ours: it is empty"
            ],
        );
    }
}
