#!/bin/bash
# build.sh OUTDIR: builds a one-node Kubernetes (all Go parts from their published modules) and the few images it needs.
# Needs root (apt), Debian 12, Go >= 1.26 on PATH (or GO=/path/to/go). Idempotent: a part whose inputs did not change is skipped.
# Option by environment: JOBS (compile jobs, default all cores).
set -euo pipefail
here=$(dirname "$(realpath "$0")"); mkdir -p "${1:?usage: build.sh OUTDIR}"; out=$(realpath "$1"); GO=${GO:-go}
"$GO" version >/dev/null || { echo "no Go found: put it on PATH or set GO" >&2; exit 2; }
KUBE=$(sed -n 's/^\t*\(require \)\?k8s.io\/kubernetes \(v[0-9.]*\)$/\2/p' "$here/src/kube/go.mod")
DNS=$(sed -n 's/.*coredns\/coredns v\([0-9.]*\)$/\1/p' "$here/src/dns/go.mod")
LPP=$(sed -n 's/.*local-path-provisioner v\([0-9.]*\).*/\1/p' "$here/src/kube/go.mod")
export CGO_ENABLED=0 GOFLAGS="-p=${JOBS:-$(nproc)} -buildvcs=false" GOTOOLCHAIN=local
mkdir -p "$out/bin" "$out/images" "$out/stamps"; total=$SECONDS

part() {   # part NAME INPUT-DIGEST COMMAND...: run once per digest, print the seconds
  local name=$1 want=$2 t=$SECONDS; shift 2
  if [ "$(cat "$out/stamps/$name" 2>/dev/null)" = "$want" ]; then echo "$name: up to date"; return; fi
  rm -f "$out/stamps/$name"
  "$@"
  echo "$want" > "$out/stamps/$name"; echo "$name: $((SECONDS - t)) s"
}
digest() { { "$GO" version; declare -f; cat "$@"; } | sha256sum | cut -c1-16; }

packages() {
  local need=() p
  for p in containerd runc containernetworking-plugins iptables iproute2 openssl procps; do
    dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || need+=("$p")
  done
  [ ${#need[@]} -eq 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${need[@]}" >"$out/apt.log" 2>&1
}
kube() {
  local l="-s -w" p v=${KUBE#v1.}
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    l+=" -X $p.gitVersion=$KUBE -X $p.gitMajor=1 -X $p.gitMinor=${v%%.*} -X $p.gitTreeState=archive -X $p.gitCommit=module"
  done
  (cd "$here/src/kube" && nice "$GO" build -trimpath -ldflags "$l" -o "$out/bin/kube" .)
  for p in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl etcd; do ln -sf kube "$out/bin/$p"; done
}
provisioner() { (cd "$here/src/kube" && nice "$GO" build -trimpath -ldflags "-s -w -X main.VERSION=v$LPP" -o "$out/bin/local-path-provisioner" github.com/rancher/local-path-provisioner); }
coredns() { (cd "$here/src/dns" && nice "$GO" build -trimpath -ldflags "-s -w -X github.com/coredns/coredns/coremain.GitCommit=module" -o "$out/bin/coredns" .); }
pause() { (cd "$here/src/pause" && "$GO" build -trimpath -ldflags "-s -w" -o "$out/bin/pause" .); }
image() {   # image ROOTFS NAME:TAG CONFIG-JSON: one-layer image as $out/images/NAME.tar, in the layout that "docker save" writes
  local w id; w=$(mktemp -d "$out/tmp.XXXX")
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$w/layer.tar" .
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"build.sh"}]}' \
    "$(dpkg --print-architecture)" "$3" "$(sha256sum < "$w/layer.tar" | cut -d' ' -f1)" > "$w/c.json"
  id=$(sha256sum < "$w/c.json" | cut -d' ' -f1); mv "$w/c.json" "$w/$id.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$id" "$2" > "$w/manifest.json"
  tar -C "$w" -cf "$out/images/$(basename "${2%%:*}").tar" manifest.json "$id.json" layer.tar; rm -rf "$w"
}
images() {
  local r a; r=$(mktemp -d "$out/tmp.XXXX")
  mkdir "$r/pause" "$r/dns" "$r/lpp"; cp "$out/bin/pause" "$r/pause/"; cp "$out/bin/coredns" "$r/dns/"; cp "$out/bin/local-path-provisioner" "$r/lpp/"
  chmod 755 "$r"/*
  # a small base image: Debian's busybox with the host's C library (its wget crashes when it is given -T)
  mkdir -p "$r"/bb/{bin,etc,proc,sys,dev,root,var,home} "$r/deb"; install -d -m 1777 "$r/bb/tmp"
  (cd "$r/deb" && apt-get -q -o APT::Sandbox::User=root download busybox >/dev/null && dpkg -x busybox_*.deb . && cp -L "$(find . -name busybox -type f -path '*/bin/*')" "$r/bb/bin/busybox")
  for a in $(ldd "$r/bb/bin/busybox" | grep -o '/[^ ]*'); do install -D "$(realpath "$a")" "$r/bb$a"; done
  for a in $("$r/bb/bin/busybox" --list | grep -vx busybox); do ln -s busybox "$r/bb/bin/$a"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$r/bb/etc/passwd"; printf 'root:x:0:\nnogroup:x:65534:\n' > "$r/bb/etc/group"; chmod 755 "$r/bb"
  image "$r/pause" local/pause:1 '{"Entrypoint":["/pause"],"User":"65534:65534"}'
  image "$r/dns" "local/coredns:$DNS" '{"Entrypoint":["/coredns"]}'
  image "$r/lpp" "local/local-path-provisioner:$LPP" '{"Entrypoint":["/local-path-provisioner"]}'
  image "$r/bb" local/busybox:1 '{"Cmd":["sh"],"Env":["PATH=/bin"]}'
  rm -rf "$r"
}

t=$SECONDS; packages; echo "apt: $((SECONDS - t)) s"
k=$(digest "$here"/src/kube/*)
part kube "$k" kube
part local-path-provisioner "$k" provisioner
part coredns "$(digest "$here"/src/dns/*)" coredns
part pause "$(digest "$here"/src/pause/*)" pause
part images "$(digest "$out"/stamps/{kube,coredns,pause,local-path-provisioner})" images
printf 'KUBE_VERSION=%s\nCOREDNS_VERSION=%s\nLPP_VERSION=%s\n' "$KUBE" "$DNS" "$LPP" > "$out/versions"
echo "all: $((SECONDS - total)) s"; du -sh "$out/bin"
