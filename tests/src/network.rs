//! What a network plugin's DaemonSet would do, without its image: a bridge on each node for its share of the
//! pods' addresses, and a route to every other node's share.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::command::{run, run_with_input};
use crate::wait::{Seen, try_until};

#[derive(Debug)]
struct NodeNetwork {
    name: String,
    address: String,
    pods: String,
}

/// Configures every node. Nodes get Ready only after this.
pub fn connect(cluster: &Cluster) -> Result<()> {
    let n_nodes = cluster.nodes()?.len();
    // the controller manager assigns the shares when nodes have registered
    let nodes = try_until("each node's share of pod addresses", Duration::from_secs(60), || {
        let listed = run(&mut cluster.kubectl(&["get", "nodes", "-o", "json"]))?;
        let listed: Value = serde_json::from_str(&listed).context("read the list of nodes")?;
        let nodes: Vec<_> = listed["items"].as_array().into_iter().flatten().filter_map(network_of).collect();
        Ok(if nodes.len() == n_nodes { Seen::Done(nodes) } else { Seen::NotYet(format!("{nodes:?}")) })
    })?;
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.name != node.name) {
            run(&mut cluster
                .on_node(&node.name, &["ip", "route", "replace", &other.pods, "via", &other.address]))?;
        }
        let mut write = cluster.on_node(&node.name, &["tee", "/etc/cni/net.d/10-bridge.conflist"]);
        run_with_input(&mut write, bridge(&node.pods).to_string().as_bytes())?;
    }
    Ok(())
}

fn network_of(node: &Value) -> Option<NodeNetwork> {
    let addresses = node["status"]["addresses"].as_array()?;
    let is_v4 =
        |address: &&Value| address["type"] == "InternalIP" && !address["address"].to_string().contains(':');
    Some(NodeNetwork {
        name: node["metadata"]["name"].as_str()?.to_owned(),
        address: addresses.iter().find(is_v4)?["address"].as_str()?.to_owned(),
        pods: node["spec"]["podCIDR"].as_str()?.to_owned(),
    })
}

fn bridge(pods: &str) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                // a pod reaches itself through its own Service
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_its_share_of_addresses_is_not_ready_to_connect() {
        let addresses = json!([{"type": "InternalIP", "address": "fc00::2"}, {"type": "InternalIP", "address": "10.89.0.2"}]);
        let mut node = json!({"metadata": {"name": "n"}, "spec": {}, "status": {"addresses": addresses}});
        assert!(network_of(&node).is_none());
        node["spec"]["podCIDR"] = "10.244.1.0/24".into();
        let network = network_of(&node).unwrap();
        assert_eq!((network.address.as_str(), network.pods.as_str()), ("10.89.0.2", "10.244.1.0/24"));
    }
}
