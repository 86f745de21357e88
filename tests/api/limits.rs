//! What one station may ask at once, and how it is told that it asks too much.

use std::time::{Duration, Instant};

use crate::support::device::Device;
use crate::support::faults::Frozen;
use crate::support::http::{Curl, Response};
use crate::support::world::{OwnWorld, issued};

const PLACES: usize = 2;
const REFUSED: usize = 10;

/// A request on its way: its answer, and how long that took.
type Asked = std::thread::JoinHandle<(Response, Duration)>;

fn ask(curl: &Curl) -> Asked {
    let (curl, body) = (curl.clone(), Device::p256().request("lightbulb"));
    std::thread::spawn(move || {
        let start = Instant::now();
        (curl.issue(&body), start.elapsed())
    })
}

fn finished(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| asked.is_finished()).count()
}

#[test]
fn a_station_holds_its_places_and_no_more_and_its_refusals_take_turns_and_no_worker() {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        config["limits"]["station_requests_at_once"] = 2.into();
        let http = config["http"].as_table_mut().unwrap();
        http.insert("workers".into(), 1.into());
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let (station, operator) = (own.world.client("station-01"), own.world.client("operator"));

    // What is let in waits for the database, and is not answered before it is there again.
    let frozen = Frozen::new(own.postgres_processes());
    let start = Instant::now();
    let asked: Vec<Asked> = (0..PLACES + REFUSED).map(|_| ask(&station)).collect();
    std::thread::sleep(Duration::from_millis(100));
    // The one worker has time for others meanwhile.
    assert_eq!(operator.get("/v1/profiles").status, 200);
    let answered = start.elapsed();
    assert!(answered < Duration::from_millis(700), "{answered:?}");
    while finished(&asked) < REFUSED {
        assert!(start.elapsed() < Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(5));
    }
    let last = start.elapsed();
    assert!(last >= Duration::from_millis(100) * 10, "{last:?}");
    // Who is no station has no such limit.
    let others: Vec<Asked> = (0..=PLACES).map(|_| ask(&operator)).collect();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((finished(&asked), finished(&others)), (REFUSED, 0));
    drop(frozen);

    let mut certified = 0;
    for asked in asked {
        let (answer, took) = asked.join().unwrap();
        if answer.status == 201 {
            certified += 1;
        } else {
            assert_eq!((answer.status, &*answer.slug()), (429, "rate-limited"));
            assert!(answer.text().contains("2 requests at once"), "{answer:?}");
            assert!(took >= Duration::from_millis(100), "{took:?}");
        }
    }
    assert_eq!(certified, PLACES);
    for other in others {
        issued(&other.join().unwrap().0);
    }
    // Its places are free again, one after the other.
    for _ in 0..3 * PLACES {
        issued(&station.issue(&Device::p256().request("lightbulb")));
    }
}

#[test]
fn without_a_word_in_the_configuration_a_station_has_twenty_requests_a_second_and_an_operator_any()
{
    let mut own = OwnWorld::make();
    own.configure(|config| {
        config.remove("limits");
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    // As many at once as a station may have, so that only its rate refuses.
    let ask = |name: &str| -> Vec<Response> {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let curl = own.world.client(name);
                std::thread::spawn(move || -> Vec<Response> {
                    (0..20)
                        .map(|_| curl.get("/v1/certificates?limit=1"))
                        .collect()
                })
            })
            .collect();
        asking
            .into_iter()
            .flat_map(|it| it.join().unwrap())
            .collect()
    };
    let start = Instant::now();
    let answers = ask("station-01");
    let seconds = start.elapsed().as_secs_f64();
    let let_in = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((40..answers.len()).contains(&let_in), "{let_in}");
    // What two silent seconds gave, and the rate since.
    assert!(
        let_in as f64 <= 40.0 + 20.0 * seconds + 1.0,
        "{let_in} in {seconds} s"
    );
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, &*answer.slug()), (429, "rate-limited"));
        let said = answer.text();
        assert!(said.contains("may make 20 requests a second"), "{said}");
    }
    assert!(ask("operator").iter().all(|answer| answer.status == 200));
}
