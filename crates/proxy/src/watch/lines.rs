//! Streams to members: all watches in the name of one caller share one, however many ranges they are of.
//!
//! A stream is opened by the first watch and ends with the last. Where it breaks, every watch on it is told,
//! and asks for another. Nothing is remembered of a watch: who wants to go on says from where.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, pb};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::call::{Caller, bare};

/// Responses that may wait for one watch. It takes them at once; this is for a moment in which it is not run.
const RESPONSES_MAX: usize = 64;

/// What comes of one watch.
type Answers = mpsc::Sender<Result<pb::WatchResponse, Status>>;

/// What is asked of a stream's task. There are never more than there are watches.
enum Command {
    Join(i64, pb::WatchCreateRequest, Answers),
    Leave(i64),
}

#[derive(Default)]
struct Table {
    /// By token. Those that hold a watch hold its stream's task.
    lines: HashMap<Vec<u8>, WeakUnboundedSender<Command>>,
    numbers: i64,
}

/// All streams.
pub struct Lines {
    client: Client,
    table: Mutex<Table>,
}

/// One watch on a stream, which ends when this is dropped.
pub struct Line {
    number: i64,
    commands: UnboundedSender<Command>,
    answers: mpsc::Receiver<Result<pb::WatchResponse, Status>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ended = self.commands.send(Command::Leave(self.number));
    }
}

impl Line {
    /// What comes next; an error, or nothing, when the stream is over.
    pub async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        self.answers.recv().await.transpose()
    }
}

impl Lines {
    /// To these members; none yet.
    pub fn new(client: Client) -> Self {
        Lines {
            client,
            table: Mutex::default(),
        }
    }

    /// Begins a watch in a caller's name.
    pub fn join(&self, caller: &Caller, create: pb::WatchCreateRequest) -> Line {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.numbers += 1;
        let number = table.numbers;
        let known = table.lines.get(caller.token());
        let commands = match known.and_then(WeakUnboundedSender::upgrade) {
            Some(commands) => commands,
            None => {
                let (commands, asked) = mpsc::unbounded_channel();
                table.lines.retain(|_, line| line.strong_count() > 0);
                let token = caller.token().to_vec();
                table.lines.insert(token, commands.downgrade());
                tokio::spawn(run(self.client.clone(), caller.clone(), asked));
                commands
            }
        };
        drop(table);
        let (answers, answered) = mpsc::channel(RESPONSES_MAX);
        // Its task ends only when nobody can ask any more.
        let _asked = commands.send(Command::Join(number, create, answers));
        Line {
            number,
            commands,
            answers: answered,
        }
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

/// One stream after the other, each when somebody wants it.
async fn run(client: Client, caller: Caller, mut asked: UnboundedReceiver<Command>) {
    while let Some(command) = asked.recv().await {
        let mut watches = Watches::default();
        let (requests, queued) = mpsc::unbounded_channel();
        watches.obey(command, &requests);
        if watches.answers.is_empty() {
            continue;
        }
        let opened = caller.request(UnboundedReceiverStream::new(queued));
        let mut stub = client.watch();
        let opened = stub.watch(opened);
        tokio::pin!(opened);
        // Who joins meanwhile is asked for at once: a member answers when there is something to say.
        let opened = loop {
            tokio::select! {
                opened = &mut opened => break opened,
                command = asked.recv() => match command {
                    Some(command) => watches.obey(command, &requests),
                    None => return,
                },
            }
        };
        let status = match opened {
            Ok(answers) => {
                let answers = answers.into_inner();
                match follow(&mut watches, &requests, answers, &mut asked).await {
                    Ok(()) => continue,
                    Err(status) => status,
                }
            }
            Err(status) => status,
        };
        watches.refuse(status);
    }
}

/// Until the stream breaks; `Ok` when nobody is on it any more.
async fn follow(
    watches: &mut Watches,
    requests: &UnboundedSender<pb::WatchRequest>,
    mut answers: Streaming<pb::WatchResponse>,
    asked: &mut UnboundedReceiver<Command>,
) -> Result<(), Status> {
    while !watches.answers.is_empty() {
        tokio::select! {
            command = asked.recv() => match command {
                Some(command) => watches.obey(command, requests),
                None => return Ok(()),
            },
            answer = answers.message() => match answer? {
                Some(answer) => watches.take(answer).await,
                None => return Err(Status::unavailable("the member ended the stream")),
            },
        }
    }
    Ok(())
}

/// Who is on a stream.
#[derive(Default)]
struct Watches {
    /// By the number under which the member knows it, too.
    answers: BTreeMap<i64, Answers>,
    /// Asked for and not answered. Members answer in order, and refuse without a number.
    creating: VecDeque<i64>,
}

impl Watches {
    fn obey(&mut self, command: Command, requests: &UnboundedSender<pb::WatchRequest>) {
        // A stream that takes no more requests is broken, and its answers will say so.
        let union = match command {
            Command::Join(number, create, answers) => {
                self.answers.insert(number, answers);
                self.creating.push_back(number);
                RequestUnion::CreateRequest(pb::WatchCreateRequest {
                    watch_id: number,
                    ..create
                })
            }
            Command::Leave(number) => {
                if self.answers.remove(&number).is_none() {
                    return;
                }
                RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: number })
            }
        };
        let _broken = requests.send(request(union));
    }

    async fn take(&mut self, answer: pb::WatchResponse) {
        let number = match answer.created {
            true => self.creating.pop_front(),
            false => Some(answer.watch_id),
        };
        let Some(number) = number else { return };
        let Some(answers) = self.answers.get(&number) else {
            return;
        };
        let over = answer.canceled;
        let gone = answers.send(Ok(answer)).await.is_err();
        if over && !gone {
            self.answers.remove(&number);
        }
    }

    fn refuse(&mut self, status: Status) {
        // What has a source was never said by a member: whoever is told of it has to know.
        let broken = std::error::Error::source(&status).is_some();
        let told = match broken {
            true => Status::unavailable(status.message()),
            false => bare(&status),
        };
        for answers in std::mem::take(&mut self.answers).into_values() {
            let _full = answers.try_send(Err(told.clone()));
        }
    }
}
