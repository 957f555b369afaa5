//! What is proposed from which evidence, as tables; and in random worlds, that no proposal is wrong.

use proptest::prelude::*;

use super::{ProposedFinding::*, *};

/// When the first order of a test comes.
const START: i64 = 1_767_323_000_000;
const TIMEOUT: i64 = 60_000;
const HOUR: i64 = 3_600_000;

fn case(number: u64, parties: &str) -> Case {
    let came = START + i64::try_from(number).unwrap();
    let parties = Some(parties).filter(|parties| !parties.is_empty()).map(str::to_owned);
    Case { number, came, latest: came + TIMEOUT, parties, courier: Some("idx".into()) }
}

/// A debit at an offset from the start, in milliseconds.
fn debit(code: &str, offset: i64, parties: &str) -> Debit {
    let row = HistoryRow {
        code: code.into(),
        debit: 18_000,
        credit: 0,
        is_unclear: false,
        at: START + offset,
        shipments: vec![code.into()],
    };
    let shipment = match parties {
        "" => Shipment::Nameless,
        "?" => Shipment::Unread,
        parties => Shipment::Tracked {
            awb: format!("AWB-{code}"),
            parties: parties.into(),
            courier: Some("idx".into()),
            since: None,
        },
    };
    Debit { row, is_known: false, is_refunded: false, shipment }
}

fn known(code: &str, offset: i64) -> Debit {
    Debit { is_known: true, shipment: Shipment::NotNeeded, ..debit(code, offset, "x") }
}

fn scene(cases: Vec<Case>, mut debits: Vec<Debit>) -> Scene {
    debits.sort_by_key(|debit| debit.row.at);
    Scene { cases, debits, read_at: START + HOUR, known_since: 0, ..Scene::default() }
}

fn findings(scene: &Scene) -> Vec<ProposedFinding> {
    judge(scene).into_iter().map(|judgement| judgement.finding).collect()
}

fn finding(scene: &Scene) -> (ProposedFinding, String) {
    let judgement = judge(scene).into_iter().next().unwrap();
    (judgement.finding, judgement.reason)
}

#[test]
fn a_debit_of_its_shipment_shows_that_it_was_executed_and_none_that_it_was_not() {
    let scene =
        scene(vec![case(1, "a"), case(2, "b"), case(3, "c")], vec![debit("P1", 900, "a"), debit("P3", 950, "c")]);
    assert_eq!(findings(&scene), [Executed, NotExecuted, Executed]);
    let first = judge(&scene).into_iter().next().unwrap();
    let found = first.debit.unwrap();
    assert_eq!((found.awb.as_str(), found.code.as_str(), found.amount), ("AWB-P1", "P1", 18_000));
    assert!(first.reason.contains("AWB-P1") && first.reason.contains("18000"), "{}", first.reason);
}

#[test]
fn debits_of_known_orders_show_it_too_but_an_empty_history_never() {
    assert_eq!(findings(&scene(vec![case(1, "a"), case(2, "")], Vec::new())), [CannotTell; 2]);
    assert_eq!(findings(&scene(vec![case(1, "a"), case(2, "")], vec![known("P1", 1_000)])), [NotExecuted; 2]);
}

#[test]
fn two_candidate_debits_are_no_evidence() {
    let scene = scene(vec![case(1, "a")], vec![debit("P1", 500, "a"), debit("P2", 2_000, "a")]);
    let (finding, reason) = finding(&scene);
    assert_eq!(finding, CannotTell);
    assert!(reason.contains("P1") && reason.contains("P2"), "{reason}");
}

#[test]
fn two_unknown_orders_for_the_same_parties_share_a_doubt() {
    let both = vec![case(1, "a"), case(2, "a")];
    assert_eq!(findings(&scene(both.clone(), vec![debit("P1", 500, "a")])), [CannotTell; 2]);
    let two = vec![debit("P1", 500, "a"), debit("P2", 600, "a")];
    assert_eq!(findings(&scene(both.clone(), two)), [CannotTell; 2]);
    assert_eq!(findings(&scene(both, vec![known("P0", 100)])), [NotExecuted; 2]);
    // An order of an earlier version, whose parties are not known, may be the one.
    assert_eq!(findings(&scene(vec![case(1, "a"), case(2, "")], vec![debit("P1", 500, "a")])), [CannotTell; 2]);
}

#[test]
fn the_debit_of_an_equal_order_that_is_under_way_is_not_taken_for_its_own() {
    let mut scene = scene(vec![case(1, "a"), case(2, "b")], vec![debit("P1", 30_000, "a")]);
    for parties in [Some("a".to_owned()), None] {
        scene.others = vec![OtherOrder { came: START + 29_000, until: i64::MAX, parties }];
        assert_eq!(findings(&scene)[0], CannotTell);
    }
    scene.others = vec![OtherOrder { came: START + 29_000, until: i64::MAX, parties: Some("c".into()) }];
    assert_eq!(findings(&scene), [Executed, NotExecuted]);
    // It came after the debit.
    scene.others = vec![OtherOrder { came: START + 30_000 + NEAR + 1, until: i64::MAX, parties: Some("a".into()) }];
    assert_eq!(findings(&scene)[0], Executed);
}

#[test]
fn a_debit_that_nobody_claims_is_a_doubt() {
    for parties in ["", "z"] {
        let scene = scene(vec![case(1, "a")], vec![known("P0", 100), debit("P1", 500, parties)]);
        let (finding, reason) = finding(&scene);
        assert_eq!(finding, CannotTell);
        assert!(reason.contains("P1") && !reason.contains("P0"), "{reason}");
    }
}

#[test]
fn nothing_is_excluded_while_fastrac_may_still_execute_it() {
    let mut scene = scene(vec![case(1, "a")], vec![known("P0", 100)]);
    scene.read_at = START + 1 + TIMEOUT + STRAGGLE - 1;
    let judgement = judge(&scene).remove(0);
    assert_eq!((judgement.finding, judgement.is_whole), (CannotTell, false));
    scene.read_at += 1;
    assert_eq!(findings(&scene), [NotExecuted]);
    scene.read_at = START + 600;
    scene.debits.push(debit("P1", 500, "a"));
    assert_eq!(findings(&scene), [Executed], "a debit is there already");
}

#[test]
fn debits_that_were_given_back_or_are_minutes_away_are_no_evidence() {
    let refunded = Debit { is_refunded: true, ..debit("P1", 500, "a") };
    let late = debit("P1", TIMEOUT + NEAR + 2, "a");
    let early = debit("P1", -NEAR, "a");
    for debit in [refunded, late, early] {
        let judgement = judge(&scene(vec![case(1, "a")], vec![debit])).remove(0);
        assert_eq!(judgement.finding, CannotTell);
        assert!(judgement.debit.is_some(), "it contradicts an earlier proposal");
    }
}

#[test]
fn what_could_not_be_read_or_is_not_remembered_is_no_evidence() {
    let judgement = judge(&scene(vec![case(1, "a")], vec![debit("P1", 500, "?")])).remove(0);
    assert_eq!((judgement.finding, judgement.is_whole), (CannotTell, false));
    let both = vec![debit("P1", 500, "a"), debit("P2", 600, "?")];
    assert_eq!(findings(&scene(vec![case(1, "a")], both)), [CannotTell]);
    let mut scene = scene(vec![case(1, "a")], vec![debit("P1", 500, "a")]);
    scene.known_since = START;
    assert_eq!(findings(&scene), [CannotTell], "it may be of an order before the gateway remembers");
}

#[test]
fn times_that_nothing_checks_exclude_nothing() {
    // In a history whose times are in another zone, the debit is hours away.
    let mut scene = scene(vec![case(1, "a")], vec![debit("P1", -7 * HOUR, "")]);
    assert_eq!(findings(&scene), [CannotTell]);
    scene.debits.push(known("P2", 1_000));
    assert_eq!(findings(&scene), [NotExecuted], "the debit of a known order was where it should be");
}

#[test]
fn a_shipment_that_contradicts_the_order_is_no_evidence() {
    for (courier, since, expected) in [
        (Some("idx"), None, Executed),
        (None, Some(START), Executed),
        (Some("jne"), None, CannotTell),
        (Some("idx"), Some(START - 9 * 24 * HOUR), CannotTell),
        (None, Some(START - NEAR), CannotTell),
    ] {
        let shipment =
            Shipment::Tracked { awb: "A1".into(), parties: "a".into(), courier: courier.map(str::to_owned), since };
        let debit = Debit { shipment, ..debit("P1", 500, "a") };
        assert_eq!(findings(&scene(vec![case(1, "a")], vec![debit])), [expected], "{courier:?} {since:?}");
    }
}

/// What became of an order in a generated history.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Became {
    Known,
    Executed,
    NotExecuted,
    Running,
}

fn orders() -> impl Strategy<Value = Vec<(Became, u8, i64)>> {
    let became =
        prop_oneof![Just(Became::Known), Just(Became::Executed), Just(Became::NotExecuted), Just(Became::Running)];
    proptest::collection::vec((became, 0u8..6, 0i64..600_000), 1..12)
}

proptest! {
    /// Orders for few parties within ten minutes; some of unknown parties, some debits without a shipment.
    #[test]
    fn no_proposal_is_wrong(orders in orders(), nameless in any::<u16>(), without in any::<u16>(), outside in 0u8..3) {
        let (mut cases, mut debits, mut others, mut truth) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, (became, parties, offset)) in orders.into_iter().enumerate() {
            let shown = if nameless >> index & 1 == 1 { String::new() } else { parties.to_string() };
            let of_order = if without >> index & 1 == 1 { None } else { Some(parties.to_string()) };
            let (came, code) = (START + offset, format!("P{index}"));
            let own = debit(&code, offset + 1_000 + i64::from(parties) * 9_000, &shown);
            match became {
                Became::Known => debits.push(Debit { is_known: true, ..own }),
                Became::Running => {
                    others.push(OtherOrder { came, until: i64::MAX, parties: of_order });
                    debits.push(own);
                }
                Became::Executed | Became::NotExecuted => {
                    cases.push(Case { number: index as u64, came, latest: came + TIMEOUT, parties: of_order, courier: None });
                    truth.push(became);
                    if became == Became::Executed {
                        debits.push(own);
                    }
                }
            }
        }
        // Bought by somebody who does not use the gateway, for others.
        debits.extend((0..outside).map(|number| debit(&format!("X{number}"), i64::from(number) * 200_000, "nobody")));
        for (finding, became) in findings(&Scene { others, ..scene(cases, debits) }).into_iter().zip(truth) {
            match finding {
                Executed => prop_assert_eq!(became, Became::Executed),
                NotExecuted => prop_assert_eq!(became, Became::NotExecuted),
                CannotTell => {}
            }
        }
    }
}
