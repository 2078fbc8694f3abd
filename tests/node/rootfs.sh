#!/bin/bash
# Makes the node's root filesystem: rootfs.sh BIN ROOTFS
# The same steps as kind's own images/base/Dockerfile, from Debian packages and the files of the kind module.
# BIN holds what `binaries.sh BIN node` built.
set -euo pipefail
bin=$(realpath "$1") rootfs=$2
here=$(dirname "$(realpath "$0")")
files=$(cd "$here/mod/kind" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files

packages=(
    systemd systemd-sysv dbus                       # PID 1 of the node
    runc containernetworking-plugins                # what containerd runs
    conntrack iptables nftables iproute2 ethtool    # kubelet, kube-proxy, CNI
    util-linux mount kmod e2fsprogs libseccomp2     # kubelet's volumes
    ca-certificates curl jq procps                  # kind's entrypoint, kubeadm's preflight, people
)
debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" bookworm "$rootfs"
rm -rf "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/* "$rootfs"/usr/share/{doc,man}/*

install -m755 "$files"/usr/local/bin/* "$rootfs/usr/local/bin/"
mkdir -p "$rootfs"/{kind/bin,kind/manifests,etc/kubernetes/manifests,opt/cni/bin,etc/cni/net.d}
install -m755 "$files"/kind/bin/* "$rootfs/kind/bin/"
(cd "$files" && find etc -type f -exec install -D -m644 {} "$rootfs/{}" \;)
cp "$bin/kubernetes-version" "$rootfs/kind/version"

# a container's systemd starts only what a node needs: no gettys, no udev, no tmpfiles over kind's mounts
(
    cd "$rootfs"
    rm -f {lib,etc}/systemd/system/{multi-user,local-fs,basic}.target.wants/*
    rm -f lib/systemd/system/sockets.target.wants/*{udev,initctl}*
    rm -f lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
    echo ReadKMsg=no >>etc/systemd/journald.conf
)
systemctl --root="$rootfs" enable -q kubelet.service containerd.service undo-mount-hacks.service
systemctl --root="$rootfs" mask -q systemd-binfmt.service

install -m755 "$bin"/{kubeadm,kubelet,kubectl} "$rootfs/usr/bin/"
install -m755 "$bin"/{containerd,containerd-shim-runc-v2,ctr,crictl} "$rootfs/usr/local/bin/"
install -m755 "$rootfs"/usr/lib/cni/{host-local,loopback,ptp,portmap,bridge} "$rootfs/opt/cni/bin/"
ln -sf /usr/sbin/runc "$rootfs/usr/local/sbin/runc"

# without the rlimits: raising them needs CAP_SYS_RESOURCE, which the node's container may not have
"$bin/ctr" oci spec |
    jq '.hooks.createContainer = [{path: "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
        >"$rootfs/etc/containerd/cri-base.json"

# the sandbox image of this Kubernetes, not the one that was current when kind's file was written
pause=$("$bin/kubeadm" config images list --kubernetes-version "$(cat "$bin/kubernetes-version")" | grep /pause:)
sed -i "s|sandbox_image = .*|sandbox_image = \"$pause\"|" "$rootfs/etc/containerd/config.toml"
