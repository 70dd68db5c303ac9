// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run came to, held against what is due.

use super::kinds::{Due, Reported};
use serde_json::Value;

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said, on both of its outputs.
    pub said: String,
    /// `result.json`; none if it is not there or no JSON.
    pub result: Option<Value>,
}

/// What differs, one sentence each; nothing if the run is as it is due.
pub fn differences(due: &Due, ended: &Ended) -> Vec<String> {
    let mut differences = Vec::new();
    if ended.code != Some(due.code) {
        let code = ended.code.map_or("none (a signal ended it)".to_owned(), |code| code.to_string());
        differences.push(format!("exit code {code}, {} was due", due.code));
    }
    let told = match (&due.case, &ended.result) {
        (Reported::Nothing, None) => &*ended.said,
        (Reported::Nothing, Some(_)) => {
            differences.push("there is a result, and nothing was to run".to_owned());
            &*ended.said
        }
        (_, None) => {
            differences
                .push(format!("result.json is not there, or no JSON; the run said: {}", ended.said.trim()));
            &*ended.said
        }
        (Reported::Interrupted, Some(result)) => {
            differences.extend(of_interrupted(result));
            &*ended.said
        }
        (due, Some(result)) => match only(&result["cases"]) {
            Some(case) => {
                differences.extend(of_case(due, case));
                case["reason"].as_str().unwrap_or_default()
            }
            None => {
                differences.push(format!("not one case reported: {}", result["cases"]));
                &*ended.said
            }
        },
    };
    let absent = due.words.iter().filter(|word| !told.contains(**word));
    let absent: Vec<String> = absent.map(|word| format!("`{word}` is not in: {}", told.trim())).collect();
    differences.extend(absent);
    differences
}

fn of_interrupted(result: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    if result["interrupted"] != true {
        differences.push("the result does not say that the run was interrupted".to_owned());
    }
    if only(&result["missing"]).is_none() {
        differences.push(format!("missing cases are {}, one was due", result["missing"]));
    }
    differences
}

fn of_case(due: &Reported, case: &Value) -> Vec<String> {
    let (outcome, headline, cause) = match due {
        Reported::Outcome(outcome, headline) => (*outcome, Some(*headline), None),
        // What was seen before the error does not count.
        Reported::Error(cause) => ("error", None, Some(*cause)),
        Reported::Interrupted | Reported::Nothing => return Vec::new(),
    };
    let found = [
        Some(("outcome", case["outcome"].as_str(), Some(outcome))),
        headline.map(|headline| ("headline", case["headline"].as_str(), headline)),
        Some(("cause of the error", case["error"]["cause"].as_str(), cause)),
    ];
    let differ = found.into_iter().flatten().filter(|(_, found, due)| found != due);
    let word = |word: Option<&str>| word.unwrap_or("none").to_owned();
    let reason = case["reason"].as_str().unwrap_or_default();
    differ
        .map(|(what, found, due)| format!("{what} {}, {} was due: {reason}", word(found), word(due)))
        .collect()
}

fn only(list: &Value) -> Option<&Value> {
    match list.as_array()?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ended(code: i32, result: Value) -> Ended {
        Ended { code: Some(code), said: "longpin: interrupted".into(), result: Some(result) }
    }

    fn killed(headline: Value) -> Value {
        json!({ "cases": [{
            "outcome": "error", "headline": headline, "error": { "cause": "infra" }, "reason": "infra: QEMU ended: qemu was killed"
        }]})
    }

    const KILLED: Due = Due { code: 2, case: Reported::Error("infra"), words: &["QEMU ended"] };

    #[test]
    fn what_is_due_is_no_difference() {
        assert_eq!(differences(&KILLED, &ended(2, killed(Value::Null))), [""; 0]);
        let interrupted = Due { code: 2, case: Reported::Interrupted, words: &["interrupted"] };
        let result = json!({ "interrupted": true, "missing": ["x"], "cases": [] });
        assert_eq!(differences(&interrupted, &ended(2, result)), [""; 0]);
        let nothing = Due { code: 3, case: Reported::Nothing, words: &["interrupted"] };
        assert_eq!(differences(&nothing, &Ended { result: None, ..ended(3, Value::Null) }), [""; 0]);
    }

    #[test]
    fn each_difference_is_told() {
        let told = differences(&KILLED, &ended(1, killed("warned".into())));
        assert_eq!(told, ["exit code 1, 2 was due"]);
        let lost = Due { code: 0, case: Reported::Outcome("pass", Some("intact")), words: &[] };
        let case = json!({ "cases": [{ "outcome": "pass", "headline": "refused", "error": null, "reason": "EFAULT" }]});
        assert_eq!(differences(&lost, &ended(0, case)), ["headline refused, intact was due: EFAULT"]);
        let other =
            json!({ "cases": [{ "outcome": "pass", "headline": "intact", "error": null, "reason": "" }]});
        assert_eq!(differences(&KILLED, &ended(2, other)).len(), 3, "outcome, cause, reason");
        for cases in [json!([]), json!([{}, {}]), Value::Null] {
            let told = differences(&KILLED, &ended(2, json!({ "cases": cases })));
            assert!(told[0].starts_with("not one case reported"), "{told:?}");
        }
        let silent = Ended { result: None, ..ended(2, Value::Null) };
        assert!(differences(&KILLED, &silent)[0].starts_with("result.json"));
        let signal = Ended { code: None, ..ended(0, killed(Value::Null)) };
        assert!(differences(&KILLED, &signal)[0].contains("a signal ended it"));
    }

    #[test]
    fn a_result_where_nothing_was_to_run_and_an_interruption_that_is_not_told_are_differences() {
        let nothing = Due { code: 3, case: Reported::Nothing, words: &[] };
        assert_eq!(differences(&nothing, &ended(3, json!({}))).len(), 1);
        let interrupted = Due { code: 2, case: Reported::Interrupted, words: &[] };
        let result = json!({ "interrupted": false, "missing": [], "cases": [] });
        assert_eq!(differences(&interrupted, &ended(2, result)).len(), 2);
    }
}
