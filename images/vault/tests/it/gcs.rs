//! A server with the few requests of Google Cloud Storage's XML interface that the store makes, written from its
//! documentation: no emulator that can be installed sends the headers the library insists on. It proves our side of the
//! conversation, not Google's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vault::StoreOptions;

/// Names in one answer of a listing: few, so that tests see several.
const PAGE: usize = 100;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    count: u64,
}

#[derive(Clone)]
struct Object {
    bytes: Vec<u8>,
    meta: Vec<(String, String)>,
    generation: u64,
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub struct Gcs {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Gcs {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let (state, over) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let ended = over.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = state.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, over }
    }

    pub fn options(&self) -> StoreOptions {
        let account =
            r#"{"private_key": "x", "private_key_id": "x", "client_email": "x", "disable_oauth": true}"#;
        let text = format!(
            "endpoint = http://127.0.0.1:{}\nallow-http = true\nservice-account-key = {account}\n",
            self.port
        );
        StoreOptions::parse(&text).expect("options")
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // so that the thread that accepts looks
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut to = stream.try_clone().expect("a second handle");
    let mut from = BufReader::new(stream);
    while let Some(request) = read(&mut from) {
        let is_head = request.method == "HEAD";
        let answer = state.lock().expect("no panic before").answer(request);
        let mut head = format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = if is_head { &[][..] } else { &answer.body };
        if to.write_all(head.as_bytes()).and_then(|()| to.write_all(body)).is_err() {
            return;
        }
    }
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).expect("a name")
}

fn read(from: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let len = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    from.read_exact(&mut body).ok()?;
    // the first segment is the bucket
    let key = path.trim_start_matches('/').split_once('/').map(|(_, key)| decoded(key)).unwrap_or_default();
    Some(Request { method, key, query, headers, body })
}

fn plain(status: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

impl State {
    fn answer(&mut self, request: Request) -> Answer {
        let upload = request.query.get("uploadId").cloned();
        match (request.method.as_str(), upload) {
            ("GET", _) if request.key.is_empty() => self.list(&request),
            ("GET" | "HEAD", _) => self.get(&request),
            ("PUT", Some(id)) => {
                let part = request.query["partNumber"].parse().expect("a number");
                self.uploads.entry(id).or_default().insert(part, request.body);
                self.stored(part.into())
            }
            ("PUT", None) => self.put(request),
            ("POST", Some(id)) => {
                let bytes = self.uploads.remove(&id).unwrap_or_default().into_values().flatten().collect();
                let generation = self.insert(&request.key, bytes, Vec::new());
                let body = format!(
                    "<CompleteMultipartUploadResult><ETag>\"{generation}\"</ETag></CompleteMultipartUploadResult>"
                );
                Answer { body: body.into_bytes(), ..self.stored(generation) }
            }
            ("POST", None) => {
                self.count += 1;
                plain(
                    "200 OK",
                    format!(
                        "<InitiateMultipartUploadResult><UploadId>u{}</UploadId></InitiateMultipartUploadResult>",
                        self.count
                    ),
                )
            }
            ("DELETE", None) if self.objects.remove(&request.key).is_some() => plain("204 No Content", ""),
            _ => plain("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>"),
        }
    }

    fn insert(&mut self, key: &str, bytes: Vec<u8>, meta: Vec<(String, String)>) -> u64 {
        self.count += 1;
        self.objects.insert(key.to_owned(), Object { bytes, meta, generation: self.count });
        self.count
    }

    fn stored(&self, generation: u64) -> Answer {
        let headers = vec![
            ("ETag".to_owned(), format!("\"{generation}\"")),
            ("x-goog-generation".to_owned(), generation.to_string()),
        ];
        Answer { status: "200 OK", headers, body: Vec::new() }
    }

    fn put(&mut self, request: Request) -> Answer {
        let is_create = request.headers.get("x-goog-if-generation-match").is_some_and(|wanted| wanted == "0");
        if is_create && self.objects.contains_key(&request.key) {
            return plain("412 Precondition Failed", "<Error><Code>PreconditionFailed</Code></Error>");
        }
        let (bytes, meta) = match request.headers.get("x-goog-copy-source") {
            None => {
                let meta = request.headers.into_iter().filter(|(name, _)| name.starts_with("x-goog-meta-"));
                (request.body, meta.collect())
            }
            Some(source) => {
                let key = decoded(source.split_once('/').expect("bucket and key").1);
                let Some(source) = self.objects.get(&key).cloned() else {
                    return plain("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>");
                };
                (source.bytes, source.meta)
            }
        };
        let generation = self.insert(&request.key, bytes, meta);
        self.stored(generation)
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(object) = self.objects.get(&request.key) else {
            return plain("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>");
        };
        let len = object.bytes.len();
        let mut answer = Answer { body: object.bytes.clone(), ..self.stored(object.generation) };
        answer.headers.extend(object.meta.iter().cloned());
        answer.headers.push(("Last-Modified".to_owned(), "Mon, 01 Jan 2024 00:00:00 GMT".to_owned()));
        let range =
            request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        if let Some((start, last)) = range {
            let (start, last): (usize, usize) =
                (start.parse().expect("a start"), last.parse().expect("an end"));
            if start >= len {
                return plain("416 Range Not Satisfiable", "<Error><Code>InvalidRange</Code></Error>");
            }
            let end = len.min(last + 1);
            answer.status = "206 Partial Content";
            answer.body = object.bytes[start..end].to_vec();
            answer.headers.push(("Content-Range".to_owned(), format!("bytes {start}-{}/{len}", end - 1)));
        }
        answer
    }

    fn list(&self, request: &Request) -> Answer {
        let of = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let (prefix, after) = (of("prefix"), of("start-after").max(of("continuation-token")));
        let matching = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let page: Vec<_> = matching.take(PAGE + 1).collect();
        let mut body = "<ListBucketResult>".to_owned();
        for (key, object) in page.iter().take(PAGE) {
            body.push_str(&format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>\"{}\"</ETag></Contents>",
                object.bytes.len(),
                object.generation
            ));
        }
        if let Some((last, _)) = page.get(PAGE - 1).filter(|_| page.len() > PAGE) {
            body.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        }
        body.push_str("</ListBucketResult>");
        plain("200 OK", body)
    }
}
