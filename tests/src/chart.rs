//! `helm install` and `helm uninstall`.

use std::path::{Path, PathBuf};

use crate::command::{Failed, run};
use crate::testbed::Testbed;

/// A release of a chart, uninstalled when dropped.
#[derive(Debug)]
pub struct Release<'a> {
    testbed: &'a Testbed,
    name: String,
    namespace: String,
    installed: bool,
}

impl Testbed {
    /// Installs a chart of the clone (`charts/quietcore`) or of an absolute path, in a namespace made for it, and
    /// waits until what it installed is Ready.
    #[track_caller]
    pub fn helm_install(&self, name: &str, namespace: &str, chart: &str, set: &[&str]) -> Release<'_> {
        self.try_helm_install(name, namespace, chart, set).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// As `helm_install`; what helm says where it refuses.
    pub fn try_helm_install(
        &self,
        name: &str,
        namespace: &str,
        chart: &str,
        set: &[&str],
    ) -> Result<Release<'_>, String> {
        let chart = chart_path(chart);
        let mut install = self.helm(&["upgrade", "--install", name]);
        install.arg(chart).args(["--namespace", namespace, "--create-namespace", "--wait", "--timeout=180s"]);
        for value in set {
            install.args(["--set", value]);
        }
        let release = Release {
            testbed: self,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            installed: true,
        };
        // dropped on refusal: a half-installed release goes too
        run(&mut install).map_err(said)?;
        Ok(release)
    }
}

impl Release<'_> {
    /// Uninstalls it, hooks included; what helm says where they refuse. It may be tried again.
    pub fn uninstall(&mut self) -> Result<(), String> {
        let uninstalled = self.try_uninstall();
        self.installed = uninstalled.is_err();
        uninstalled
    }

    fn try_uninstall(&self) -> Result<(), String> {
        let words = ["uninstall", &self.name, "--namespace", &self.namespace, "--wait", "--timeout=180s"];
        run(&mut self.testbed.helm(&words)).map(drop).map_err(said)
    }

    /// Leaves it installed, for the tests that follow.
    pub fn keep(mut self) {
        self.installed = false;
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.installed
            && let Err(refusal) = self.try_uninstall()
        {
            crate::progress::say(&format!("release {} may be left behind: {refusal}", self.name));
        }
    }
}

fn chart_path(chart: &str) -> PathBuf {
    // `join` keeps an absolute path as it is
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(chart)
}

fn said(error: anyhow::Error) -> String {
    match error.downcast::<Failed>() {
        Ok(failed) => failed.stderr.trim().to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
