#!/bin/bash
# Builds the programs of the node and of the host from Go modules: binaries.sh OUT PART
# PART: tools (kind, helm, kubectl: what the host needs), node (what runs in the node), or lab (of the node's what the
# lab has: kubelet and containerd).
# Versions are those of mod/*/go.mod; nothing else in the testbed names one.
set -euo pipefail
out=$(realpath "$1") part=$2
cd "$(dirname "$(realpath "$0")")/mod"

# static and without build paths: the same file wherever it was built, whatever libc the node has
export CGO_ENABLED=0
build() { # MODULE-FOLDER LDFLAGS PACKAGE...
    local folder=$1 ldflags=$2
    shift 2
    (cd "$folder" && go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w $ldflags" -o "$out/" "$@")
}
version_of() { (cd "$1" && go list -m -f '{{.Version}}' "$2"); }

# what is built from the module cache does not know its version, and helm refuses a server without one
kubernetes=$(version_of k8s k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${kubernetes#v}"
stamp=k8s.io/component-base/version
kubernetes_flags="-X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean"

build_containerd() {
    local containerd=github.com/containerd/containerd/v2
    build containerd "-X $containerd/version.Version=$(version_of containerd $containerd)" \
        $containerd/cmd/{containerd,containerd-shim-runc-v2,ctr}
}

case $part in
tools)
    build kind "" sigs.k8s.io/kind
    # the node image this kind was released with, for machines that can pull it
    sed -n 's/^const Image = "\(.*\)"/\1/p' \
        "$(cd kind && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/pkg/apis/config/defaults/image.go" >"$out/kind-node-image"
    build helm "" helm.sh/helm/v4/cmd/helm
    build k8s "$kubernetes_flags" k8s.io/kubernetes/cmd/kubectl
    ;;
node)
    commands=(kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
    build k8s "$kubernetes_flags" "${commands[@]/#/k8s.io/kubernetes/cmd/}"
    # `go build` would call it v3, after the last folder of its path
    (cd k8s && go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$out/etcd" go.etcd.io/etcd/server/v3)
    build crictl "" sigs.k8s.io/cri-tools/cmd/crictl
    build coredns "" github.com/coredns/coredns
    build_containerd
    printf %s "$kubernetes" >"$out/kubernetes-version"
    ;;
lab)
    build k8s "$kubernetes_flags" k8s.io/kubernetes/cmd/kubelet
    build_containerd
    ;;
*)
    echo "binaries.sh: unknown part $part" >&2
    exit 2
    ;;
esac
