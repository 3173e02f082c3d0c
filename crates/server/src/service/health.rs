//! `grpc.health.v1.Health`: the whole server, named by the empty string, serves from its start, unless a
//! defragmentation is to stop it.

use ferrite_proto::grpc_health_v1::health_check_response::ServingStatus;
use ferrite_proto::grpc_health_v1::health_server::Health;
use ferrite_proto::grpc_health_v1::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::{Context, wants_leader};
use crate::errors;

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
            status: status_of(*self.0.serving.subscribe().borrow()),
        }))
    }

    type WatchStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send>,
    >;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.admit_stream(request.metadata(), false)?;
        let known = request.get_ref().service.is_empty();
        let needs_leader = wants_leader(request.metadata());
        let mut leader_lost = self.0.leader_lost.from_now();
        let mut says = self.0.serving.subscribe();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let status = if known {
                    status_of(*says.borrow_and_update())
                } else {
                    ServingStatus::ServiceUnknown as i32
                };
                let message = Ok(HealthCheckResponse { status });
                if sender.send(message).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = says.changed(), if known => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = sender.closed() => return,
                    () = leader_lost.wait(), if needs_leader => {
                        let _gone = sender.send(Err(errors::health_ended())).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )))
    }
}

fn status_of(serving: bool) -> i32 {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    status as i32
}
