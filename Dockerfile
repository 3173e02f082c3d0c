# The image of the walkthrough. Understood by Docker's older builder too: no BuildKit syntax.
#
#   docker build -t ferrite-etcd .             builds the programs from source
#   scripts/docker-image.sh                    takes programs built outside; works where no registry is reached
#
# BUILDER   where the programs are built (source) or only picked up (prebuilt)
# BASE      what they run on: needs a /bin/sh and glibc
# BINARIES  source, or prebuilt: then etcd, etcdctl and etcdutl are taken from target/image
ARG BUILDER=rust:1-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
ARG BINARIES=source
WORKDIR /src
COPY . .
RUN set -eu; \
    case "$BINARIES" in \
        source) cargo build --release --locked --bin etcd --bin etcdctl --bin etcdutl; from=target/release ;; \
        prebuilt) from=target/image ;; \
        *) echo "BINARIES is '$BINARIES': say source or prebuilt" >&2; exit 1 ;; \
    esac; \
    mkdir /out; \
    for program in etcd etcdctl etcdutl; do install -m 0755 "$from/$program" /out/; done

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Ferrite" \
      org.opencontainers.image.description="etcd, rebuilt in Rust" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The user's document types `etcdctl member list` and means version 2's form of it.
ENV ETCDCTL_API=2
COPY --from=build /out/ /usr/local/bin/
# A new volume mounted here takes this folder's mode, so that whatever user runs the image can make its data
# directory in it; etcd makes that with mode 0700.
RUN mkdir -p /var/lib/etcd && chmod 1777 /var/lib/etcd
WORKDIR /var/lib/etcd
EXPOSE 2379 2380
USER 65532:65532
# Asks the member of this container, as etcdctl is told to by its variables: with TLS set ETCDCTL_ENDPOINTS,
# ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY.
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
    CMD ["/bin/sh", "-c", "ETCDCTL_API=3 exec etcdctl endpoint health --command-timeout=5s"]
CMD ["etcd"]
