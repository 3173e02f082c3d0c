#!/bin/sh
# The user's walkthrough, unattended: scripts/walkthrough.sh [--loopback | --docker] [options]; --help lists them.
set -eu
cd "$(dirname "$0")/.."
exec cargo run --quiet --release --locked -p ferrite-dev -- walkthrough "$@"
