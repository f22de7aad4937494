//! Commands in a running container, and what it wrote.

use crate::{
    guest::host::{Host, LogLine},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "exec-logs",
    title: "exec returns output and exit code, and logs are in the CRI format",
    requirements: &["ra2.crt.002", "ra2.mon.002"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let pod = guest.pod("exec").run().await?;
    let main =
        pod.container("main", &probe.reference).args(["pause"]).env("GREETING", "hello").start().await?;

    context.step("exec");
    let output = main.exec(&[&program, "echo", "to stdout"]).await?;
    check_equal("standard output", &output.stdout.as_str(), &"to stdout\n")?;
    check_equal("the exit code", &output.code, &0)?;

    context.step("exec a command that fails");
    let output = main.exec(&[&program, "exit", "42"]).await?;
    check_equal("the exit code", &output.code, &42)?;

    context.step("exec a command that is not there");
    let missing = main.exec(&["/no/such/command"]).await;
    check(!matches!(&missing, Ok(output) if output.code == 0), || "it succeeded".to_owned())?;

    context.step("see the container's environment");
    let environment = main.exec(&[&program, "env"]).await?.success()?;
    check(environment.lines().any(|line| line == "GREETING=hello"), || format!("it is {environment:?}"))?;

    context.step("read a log of both streams");
    let writer = pod.container("writer", &probe.reference).args(["print", "3"]).start().await?;
    let errors = pod.container("errors", &probe.reference).args(["print", "1", "--stderr"]).start().await?;
    check_equal("the exit code", &writer.exited().await?.exit_code, &0)?;
    check_equal("the exit code", &errors.exited().await?.exit_code, &0)?;
    let host = Host::look(&guest, probe).await?;
    let log = host.log(&writer).await?;
    let lines = ["line 1 of 3", "line 2 of 3", "line 3 of 3"];
    check_equal("the log", &parts(&log), &lines.map(|line| ("stdout", "F", line)).to_vec())?;
    let log = host.log(&errors).await?;
    check_equal("the log", &parts(&log), &vec![("stderr", "F", "line 1 of 1")])?;
    host.leave().await?;
    pod.remove().await?;

    context.step("read the runtime's journal through the management API");
    let journal = guest.journal("cairn-cri.service", 50).await?;
    check(!journal.is_empty(), || "the journal of cairn-cri.service is empty".to_owned())
}

fn parts(log: &[LogLine]) -> Vec<(&str, &str, &str)> {
    log.iter().map(|line| (line.stream.as_str(), line.tag.as_str(), line.text.as_str())).collect()
}
