//! JUnit XML, in the form that CI systems agree on (the Jenkins schema).

use super::{Outcome, Report, ScenarioReport};
use std::fmt::Write;

/// The report as one test suite.
pub fn render(report: &Report) -> String {
    let count = |wanted: fn(&Outcome) -> bool| report.scenarios.iter().filter(|s| wanted(&s.outcome)).count();
    let image = &report.image;
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a String cannot fail.
    let _ = writeln!(
        xml,
        "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
        escaped(&format!("cairn {} {}", image.profile, image.version)),
        report.scenarios.len() + 1,
        count(|o| matches!(o, Outcome::Failed { .. })) + usize::from(!image.unchanged),
        count(|o| matches!(o, Outcome::Broken { .. })),
        count(|o| matches!(o, Outcome::Skipped { .. })),
        report.seconds,
    );
    let properties = [
        ("image.digest", image.digest.to_string()),
        ("image.root-hash", image.root_hash.clone()),
        ("qemu.version", report.machine.qemu.clone()),
        ("qemu.accelerator", format!("{:?}", report.machine.accelerator).to_lowercase()),
    ];
    xml.push_str("  <properties>\n");
    for (name, value) in properties {
        let _ = writeln!(xml, "    <property name=\"{name}\" value=\"{}\"/>", escaped(&value));
    }
    xml.push_str("  </properties>\n");
    for scenario in &report.scenarios {
        case(&mut xml, scenario);
    }
    let unchanged = if image.unchanged {
        "/>\n"
    } else {
        ">\n    <failure message=\"the base image was written to\"/>\n  </testcase>\n"
    };
    let _ = write!(
        xml,
        "  <testcase classname=\"cairn\" name=\"base-image-unchanged\" time=\"0.000\"{unchanged}"
    );
    xml.push_str("</testsuite>\n");
    xml
}

fn case(xml: &mut String, scenario: &ScenarioReport) {
    let _ = write!(
        xml,
        "  <testcase classname=\"cairn\" name=\"{}\" time=\"{:.3}\">\n    <properties>\n",
        escaped(scenario.id),
        scenario.seconds
    );
    for requirement in scenario.requirements {
        let _ = writeln!(xml, "      <property name=\"requirement\" value=\"{}\"/>", escaped(requirement));
    }
    for figure in &scenario.figures {
        let _ = writeln!(
            xml,
            "      <property name=\"{}\" value=\"{:.3}\"/>",
            escaped(&figure.name),
            figure.value
        );
    }
    xml.push_str("    </properties>\n");
    match &scenario.outcome {
        Outcome::Passed => {}
        Outcome::Failed { message, artefacts } => end(xml, "failure", message, artefacts),
        Outcome::Broken { message, artefacts } => end(xml, "error", message, artefacts),
        Outcome::Skipped { reason } => {
            let _ = writeln!(xml, "    <skipped message=\"{}\"/>", escaped(reason));
        }
    }
    if !scenario.steps.is_empty() {
        xml.push_str("    <system-out>\n");
        for step in &scenario.steps {
            let _ = writeln!(xml, "{:9.3} s  {}", step.seconds, escaped(&step.title));
        }
        xml.push_str("    </system-out>\n");
    }
    xml.push_str("  </testcase>\n");
}

fn end(xml: &mut String, element: &str, message: &str, artefacts: &[std::path::PathBuf]) {
    let first = message.lines().next().unwrap_or_default();
    let _ = writeln!(xml, "    <{element} message=\"{}\">{}", escaped(first), escaped(message));
    for path in artefacts {
        let _ = writeln!(xml, "{}", escaped(&path.display().to_string()));
    }
    let _ = writeln!(xml, "</{element}>");
}

/// XML 1.0 text: the five special characters escaped, characters that XML cannot hold replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' => out.push(c),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
