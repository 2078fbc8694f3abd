//! The images that a control plane consists of, from the binaries built for the node image.
//!
//! Names and tags come from kubeadm itself: what it lists is what its static pods will ask for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::run;
use crate::image::Image;

/// Where trusted certificates are, here and in the images.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What kube-proxy runs in nftables mode.
const PROXY_TOOLS: [&str; 2] = ["/usr/sbin/nft", "/usr/sbin/conntrack"];

/// Writes one docker-archive per image into `out`.
pub fn write_images(binaries: &Path, rootfs: &Path, out: &Path) -> Result<()> {
    let version =
        std::fs::read_to_string(binaries.join("kubernetes-version")).context("read kubernetes-version")?;
    let kubeadm = binaries.join("kubeadm");
    let listed = run(Command::new(kubeadm)
        .args(["config", "images", "list", "--kubernetes-version"])
        .arg(version.trim()))?;
    for tag in listed.lines() {
        let name = short_name(tag);
        component(tag, binaries, rootfs)?.write(&out.join(format!("{name}.tar")))?;
    }
    Ok(())
}

/// `etcd` of `registry/path/etcd:3.6`.
fn short_name(tag: &str) -> &str {
    let last = tag.rsplit('/').next().unwrap_or(tag);
    last.split(':').next().unwrap_or(last)
}

fn component(tag: &str, binaries: &Path, rootfs: &Path) -> Result<Image> {
    let name = short_name(tag);
    let binary = binaries.join(name);
    if !binary.exists() {
        bail!("kubeadm lists image {tag}, and binaries.sh builds no {name}");
    }
    let image = Image::new(tag).folder("/tmp", 0o1777);
    Ok(match name {
        "pause" => image.file(&binary, "/pause").entrypoint(&["/pause"]),
        "coredns" => with_certificates(image, rootfs).file(&binary, "/coredns").entrypoint(&["/coredns"]),
        "kube-proxy" => {
            let path = format!("/usr/local/bin/{name}");
            let image = image.file(&binary, &path).entrypoint(&[&path]).folder("/run", 0o755);
            image.folder("/lib/modules", 0o755).programs_of(rootfs, &PROXY_TOOLS)?
        }
        _ => {
            let path = format!("/usr/local/bin/{name}");
            with_certificates(image, rootfs).file(&binary, &path).entrypoint(&[&path])
        }
    })
}

fn with_certificates(image: Image, rootfs: &Path) -> Image {
    image.file(&inside(rootfs, CERTIFICATES), CERTIFICATES)
}

fn inside(rootfs: &Path, path: &str) -> PathBuf {
    rootfs.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn names_lose_their_registry_and_version() {
        assert_eq!(short_name("registry.example/coredns/coredns:v1.14.2"), "coredns");
        assert_eq!(short_name("registry.example:5000/etcd:3.6.8-0"), "etcd");
    }
}
