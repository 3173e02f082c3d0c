//! Streams around streams: writing is handed on as it is, in one place for all of them.

/// `AsyncWrite` for a type that keeps writes as they are: each pattern names where they go.
macro_rules! delegate_write {
    ({$($generics:tt)*} $kind:ty, $($pattern:pat => $inner:ident),+ $(,)?) => {
        impl $($generics)* ::tokio::io::AsyncWrite for $kind {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                match self.get_mut() {
                    $($pattern => ::std::pin::Pin::new($inner).poll_write(cx, buf),)+
                }
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                match self.get_mut() {
                    $($pattern => ::std::pin::Pin::new($inner).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                match self.get_mut() {
                    $($pattern => ::std::pin::Pin::new($inner).poll_shutdown(cx),)+
                }
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                match self.get_mut() {
                    $($pattern => ::std::pin::Pin::new($inner).poll_write_vectored(cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($pattern => $inner.is_write_vectored(),)+
                }
            }
        }
    };
}

pub(crate) use delegate_write;
