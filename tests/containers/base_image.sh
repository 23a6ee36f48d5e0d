#!/bin/bash
# base_image.sh [TAG]: a stand-in for python:3.11-slim-bookworm from Debian's packages, for tests where no registry answers.
# Needs root, debootstrap and a Docker engine. The machine's certificates go in, so that `pip install` works behind its proxy:
# never ship an image made on it.
set -euo pipefail
tag=${1:-python:3.11-slim-bookworm}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" ${mirror:+"$mirror"} > "$work/log" 2>&1 \
  || { tail -5 "$work/log" >&2; exit 1; }
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}
ln -sf python3 "$work/root/usr/bin/python"
ca=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
cp "$ca" "$work/root/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nbreak-system-packages = true\n' > "$work/root/etc/pip.conf"
tar -C "$work/root" -c . | docker import \
  --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$tag" > /dev/null
echo "made $tag from Debian's packages"
