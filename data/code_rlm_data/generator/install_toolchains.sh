#!/usr/bin/env bash
# Installs the compilers and interpreters that polyglot-memory is measured with (Debian 12 or newer, as root, about 3 GB).
# Versions differ from release to release; the card of the data set says which ones its rows were measured with.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends \
  gcc g++ libc6-dev gfortran ldc fp-compiler fp-units-base fp-units-fcl \
  default-jdk-headless mono-mcs mono-runtime libmono-system-core4.0-cil \
  golang-go ghc ocaml-nox ocaml-findlib guile-3.0 \
  nodejs node-typescript python3 perl ruby php-cli lua5.4 bash
# Debian's compiler will do; one that is on the PATH already is kept.
command -v rustc >/dev/null || apt-get install -y --no-install-recommends rustc
