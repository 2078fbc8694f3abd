#!/bin/sh
# Records a conversation with the runtime's half of containerd/nri, one file for each version named.
# Usage, from the top of the repository: plugin/tests/data/nri/record.sh 0.6.1 0.8.0 0.10.0 0.11.0 0.12.2
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cargo build -q -p quietcore --example nri-record
record=$(cargo build -q -p quietcore --example nri-record --message-format=json |
	sed -n 's/.*"executable":"\([^"]*nri-record\)".*/\1/p')
for version; do
	build=$(mktemp -d)
	cp "$here/runtime/main.go" "$build"
	(cd "$build" && go mod init example.org/nri-runtime && go get "github.com/containerd/nri@v$version" && go mod tidy &&
		go build -o runtime .) >"$build/log" 2>&1 || { cat "$build/log"; exit 1; }
	case $version in 0.6.*) runtime=1.7.24 ;; 0.8.*) runtime=2.1.9 ;; 0.10.*) runtime=2.2.0 ;; 0.11.*) runtime=2.2.7 ;; *) runtime=2.4.0 ;; esac
	"$build/runtime" "$build/nri.sock" containerd "v$runtime" &
	until [ -S "$build/nri.sock" ]; do sleep 0.1; done
	"$record" "$build/nri.sock" "$here/nri-$version.bin"
	wait $!
	# And once more with more than one message can carry: not kept, it is 10 MB.
	case $version in 0.6.*) ;; *)
		"$build/runtime" "$build/big.sock" containerd "v$runtime" 40 &
		until [ -S "$build/big.sock" ]; do sleep 0.1; done
		"$record" "$build/big.sock" /dev/null
		wait $!
	esac
	rm -r "$build"
done
