//! Methods that a node has and this one hasn't.

/// Answers calls with `Unimplemented`, as a node does that was built before the method was. Written out the way
/// `async_trait` would, since it can't look into a macro's call.
macro_rules! unserved {
    ($($method:ident($request:ty) -> $response:ty;)*) => {$(
        fn $method<'node, 'async_trait>(
            &'node self,
            _request: tonic::Request<$request>,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<tonic::Response<$response>, tonic::Status>> + Send + 'async_trait>,
        >
        where
            'node: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(tonic::Status::unimplemented(concat!("unknown method ", stringify!($method)))) })
        }
    )*};
}

pub(super) use unserved;
