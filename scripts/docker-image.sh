#!/bin/sh
# The container image, out of programs built on this machine; where no image registry is reached its base
# is made with debootstrap (as root, once). scripts/docker-image.sh --help lists the options.
set -eu
cd "$(dirname "$0")/.."
exec cargo run --quiet --release --locked -p ferrite-dev -- image "$@"
