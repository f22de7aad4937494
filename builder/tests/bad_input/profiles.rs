//! Profiles that cannot be built.

use crate::fixture::{Checkout, PROFILE};

/// Every command that takes a profile and would write something.
const COMMANDS: [&[&str]; 3] = [&["build", "small"], &["build", "small", "--dry-run"], &["lock", "small"]];

#[track_caller]
fn refused(profile: &str, parts: &[&str]) {
    for command in COMMANDS {
        let checkout = Checkout::new(profile);
        let outcome = checkout.run(command);
        outcome.assert_refused(2, parts);
        assert_eq!(checkout.new_files(), Vec::<String>::new());
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_likely_one() {
    let profile = PROFILE.replace("initrd_modules", "initrd_module");
    refused(&profile, &["profiles/small.toml:5:1", "initrd_module", "did you mean `initrd_modules`?"]);
}

#[test]
fn a_wrong_type_is_named_with_its_place_and_the_right_one() {
    let profile = PROFILE.replace(r#"install = ["systemd", "udev"]"#, "install = 3");
    refused(&profile, &["profiles/small.toml:7:11", "packages.install", "expected a list"]);
    let profile = format!("{PROFILE}[disk]\nslot_size = \"huge\"\n");
    refused(&profile, &["profiles/small.toml:11:13", "`huge` is not a size", "512 MiB"]);
}

#[test]
fn a_profile_that_is_no_toml_is_shown_where_it_breaks() {
    refused("name = \"small\n", &["profiles/small.toml:1:"]);
}

#[test]
fn a_missing_profile_is_the_users_mistake_and_near_ones_are_named() {
    let checkout = Checkout::new(PROFILE);
    for command in ["build", "lock"] {
        let outcome = checkout.run(&[command, "smal"]);
        outcome.assert_refused(2, &["profiles/smal.toml", "did you mean `small`?"]);
    }
    let outcome = checkout.run(&["build", "elsewhere/none.toml"]);
    outcome.assert_refused(2, &["elsewhere/none.toml"]);
    assert_eq!(checkout.new_files(), Vec::<String>::new());
}

#[test]
fn contradictory_settings_are_all_named_before_anything_is_done() {
    let profile =
        format!("{PROFILE}[storage]\nnfs = true\n").replace("\"udev\"]", "\"udev\"]\nexclude = [\"udev\"]");
    for command in COMMANDS {
        let checkout = Checkout::new(&profile);
        let outcome = checkout.run(command);
        outcome.assert_refused(2, &["profile small does not fit together", "nothing was done"]);
        // The findings come before the message, each with its fix.
        for part in ["fatal[packages.exclude]", "`udev` is asked for and excluded", "nfs-common", "fix: "] {
            assert!(outcome.stderr.contains(part), "{part}: {outcome:#?}");
        }
        assert_eq!(checkout.new_files(), Vec::<String>::new());
    }
    // `profile check` was asked to check: what it finds is a result.
    let outcome = Checkout::new(&profile).run(&["profile", "check", "small"]);
    outcome.assert_refused(1, &["does not fit together"]);
}

#[test]
fn a_lock_that_is_none_or_too_old_is_refused() {
    let checkout = Checkout::new(PROFILE);
    std::fs::write(checkout.path("profiles/small.lock"), "version = 1\nnonsense = true\n").unwrap();
    for command in [["build", "small"], ["lock", "small"]] {
        checkout.run(&command).assert_refused(2, &["profiles/small.lock", "nonsense", "remove it"]);
    }
    let checkout = Checkout::locked(b"");
    let profile = PROFILE.replace("\"udev\"]", "\"udev\", \"kmod\"]");
    std::fs::write(checkout.path("profiles/small.toml"), profile).unwrap();
    let mirror = crate::mirror::Mirror::down();
    let outcome = checkout.run(&["build", "small", "--locked", "--mirror", &mirror]);
    outcome.assert_refused(2, &["profiles/small.lock", "other packages", "--locked"]);
    let outcome = checkout.run(&["lock", "small", "--check", "--mirror", &mirror]);
    outcome.assert_refused(
        1,
        &["profiles/small.lock", "other packages", "`cairn lock small` brings it up to date"],
    );
    assert_eq!(checkout.new_files(), Vec::<String>::new());
}
