//! `grpc.health.v1.Health`: the whole server, named by the empty string, serves from its start.

use ferrite_proto::grpc_health_v1::health_check_response::ServingStatus;
use ferrite_proto::grpc_health_v1::health_server::Health;
use ferrite_proto::grpc_health_v1::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::Context;

/// The service.
#[derive(Clone)]
pub struct HealthService(pub Context);

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving as i32,
        }))
    }

    type WatchStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send>,
    >;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use tokio_stream::StreamExt as _;
        self.0.admit(request.metadata(), false)?;
        let status = if request.get_ref().service.is_empty() {
            ServingStatus::Serving
        } else {
            ServingStatus::ServiceUnknown
        };
        let first = tokio_stream::once(Ok(HealthCheckResponse {
            status: status as i32,
        }));
        // The status never changes while the server runs; the stream ends with it.
        Ok(Response::new(Box::pin(
            first.chain(tokio_stream::pending()),
        )))
    }
}
