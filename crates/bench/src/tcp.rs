//! The floor under the channels: requests of 16 bytes and answers of any size over plain TCP on the loopback interface.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// A request: bytes of one answer, and how many of them.
const REQUEST: usize = 16;
/// Longest answer: a page and its header fit.
const ANSWER_MAX: usize = 8192;
/// An answer is written in blocks of this size when many are wanted at once.
const BLOCK: usize = 256 << 10;

/// Serves requests on a thread of its own for each connection, as long as the process lives; returns the address.
pub fn serve() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                lev_dsm::threads::serve_first();
                // The end of the connection ends the thread.
                let _ = answer(stream);
            });
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, block) = ([0; REQUEST], vec![1; BLOCK]);
    loop {
        stream.read_exact(&mut request)?;
        let number =
            |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap_or_default());
        let mut left = number(0).min(ANSWER_MAX as u64).saturating_mul(number(8));
        while left > 0 {
            let now = left.min(BLOCK as u64);
            stream.write_all(&block[..now as usize])?;
            left -= now;
        }
    }
}

fn request(answer: u32, count: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..8].copy_from_slice(&u64::from(answer).to_le_bytes());
    bytes[8..].copy_from_slice(&u64::from(count).to_le_bytes());
    bytes
}

fn connect(address: &String) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks all servers at the same time and waits for all answers; nanoseconds of each round. `acknowledge`: tells the
/// servers afterwards, which belongs to the round as far as this side is busy with it.
pub fn ask(
    addresses: &[String],
    rounds: usize,
    answer: u32,
    acknowledge: bool,
) -> io::Result<Vec<u64>> {
    let mut streams = addresses
        .iter()
        .map(connect)
        .collect::<io::Result<Vec<_>>>()?;
    let mut buffer = vec![0; (answer as usize).min(ANSWER_MAX)];
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        for stream in &mut streams {
            stream.write_all(&request(answer, 1))?;
        }
        for stream in &mut streams {
            stream.read_exact(&mut buffer)?;
            if acknowledge {
                stream.write_all(&request(0, 0))?;
            }
        }
        samples.push(start.elapsed().as_nanos() as u64);
    }
    Ok(samples)
}

/// One request, `count` answers in a stream; nanoseconds of all of it.
pub fn stream(address: &String, count: u32, answer: u32) -> io::Result<u64> {
    let mut stream = connect(address)?;
    let mut buffer = vec![0; BLOCK];
    let mut left = u64::from(answer).min(ANSWER_MAX as u64) * u64::from(count);
    let start = Instant::now();
    stream.write_all(&request(answer, count))?;
    while left > 0 {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(start.elapsed().as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_size_that_was_asked_for() {
        let address = serve().unwrap();
        assert_eq!(
            ask(&[address.clone(), address.clone()], 3, 4112, true)
                .unwrap()
                .len(),
            3
        );
        assert!(stream(&address, 1000, 4112).unwrap() > 0);
    }
}
