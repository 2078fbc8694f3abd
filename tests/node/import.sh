#!/bin/bash
# Puts the control plane's images into the root filesystem and makes one image of it: import.sh BIN ROOTFS IMAGES TAG
# IMAGES is a folder of docker-archives. podman is told where its storage is by the environment.
set -euo pipefail
bin=$(realpath "$1") rootfs=$(realpath "$2") images=$(realpath "$3") tag=$4
work=$(mktemp -d)

# a containerd for these imports only: content and image store, nothing that could run a container
cat >"$work/config.toml" <<CONFIG
version = 3
disabled_plugins = [
    "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
    "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
]
CONFIG
"$bin/containerd" --config "$work/config.toml" --root "$rootfs/var/lib/containerd" --state "$work/state" \
    --address "$work/containerd.sock" >"$work/containerd.log" 2>&1 &
containerd=$!
stop() { kill "$containerd" 2>/dev/null && wait "$containerd" || true; }
trap 'stop; cat "$work/containerd.log" >&2; rm -rf "$work"' ERR
trap 'stop; rm -rf "$work"; exit 130' INT TERM

ctr() { "$bin/ctr" -a "$work/containerd.sock" "$@"; }
for _ in $(seq 40); do
    ctr version >/dev/null 2>&1 && break
    sleep 0.25
done
for archive in "$images"/*.tar; do
    # pinned: the kubelet's image garbage collection could not pull them again
    ctr -n k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests "$archive"
done
stop
rm -rf "$work"

tar -C "$rootfs" --exclude='*.sock' -c . | podman import -q \
    --change 'ENV container=docker' --change 'STOPSIGNAL SIGRTMIN+3' \
    --change 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' - "$tag"
