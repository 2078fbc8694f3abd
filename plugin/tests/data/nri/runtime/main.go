// A container runtime that is nothing but its NRI: the runtime's half of containerd/nri, of whatever version
// it is built with, asks the plugin on SOCKET what containerd would ask, and checks the answers.
//
//	runtime SOCKET NAME VERSION [N_CONTAINERS]
//
// With N_CONTAINERS of 250 KiB each the Synchronize has to be split (NRI 0.7 and newer).
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	nri "github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

var pod = &api.PodSandbox{Id: "pod0", Name: "pod", Namespace: "default", Uid: "uid0"}

func container(name string) *api.Container {
	return &api.Container{
		Id: name + "-id", PodSandboxId: "pod0", Name: name, Args: []string{"/app", "--poll"},
		State: api.ContainerState_CONTAINER_CREATED,
	}
}

// Somebody else's plugin, which is asked before ours and sets the cpuset of ordinary containers.
type pinner struct{}

func (pinner) CreateContainer(
	_ context.Context, _ *api.PodSandbox, container *api.Container,
) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	adjust := &api.ContainerAdjustment{}
	if container.Name == "ordinary" {
		adjust.SetLinuxCPUSetCPUs("0")
	}
	return adjust, nil, nil
}

func main() {
	socket, name, version, nContainers := os.Args[1], os.Args[2], os.Args[3], 1
	if len(os.Args) > 4 {
		nContainers, _ = strconv.Atoi(os.Args[4])
	}
	synchronized := make(chan error, 2)
	sync := func(ctx context.Context, cb nri.SyncCB) error {
		containers := []*api.Container{container("old")}
		for len(containers) < nContainers {
			big := container(fmt.Sprint("big", len(containers)))
			big.Annotations = map[string]string{"filler": strings.Repeat("x", 250<<10)}
			containers = append(containers, big)
		}
		pods := []*api.PodSandbox{pod}
		for len(pods) < len(containers) { // one pod and many containers: adaptation/plugin.go loops for ever
			pods = append(pods, &api.PodSandbox{Id: fmt.Sprint("pod", len(pods)), Name: fmt.Sprint("pod", len(pods))})
		}
		_, err := cb(ctx, pods, containers)
		synchronized <- err
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	runtime, err := nri.New(name, version, sync, update, nri.WithSocketPath(socket),
		nri.WithPluginPath("/nonexistent"), nri.WithPluginConfigPath("/nonexistent"))
	if err == nil {
		err = runtime.Start()
	}
	if err == nil {
		err = <-synchronized
	}
	if err == nil {
		var other stub.Stub
		other, err = stub.New(pinner{}, stub.WithPluginName("pinner"), stub.WithPluginIdx("10"),
			stub.WithSocketPath(socket))
		if err == nil {
			err = other.Start(context.Background())
		}
	}
	if err == nil {
		err = <-synchronized
	}
	// From 0.7 on Start synchronizes the plugins that the runtime launches itself, of which there are none.
	for quiet := false; err == nil && !quiet; {
		select {
		case err = <-synchronized:
		case <-time.After(3 * time.Second):
			quiet = true
		}
	}
	if err != nil {
		log.Fatal("start: ", err)
	}
	ask(runtime)
	runtime.Stop()
	os.Remove(socket)
}

func ask(runtime *nri.Adaptation) {
	ctx := context.Background()
	create := func(name string) (*api.CreateContainerResponse, error) {
		return runtime.CreateContainer(ctx, &api.CreateContainerRequest{Pod: pod, Container: container(name)})
	}
	strict := func() {
		created, err := create("strict")
		if err != nil || created.Adjust.Linux.Resources.Cpu.Cpus != "1" || len(created.Adjust.Mounts) != 1 {
			log.Fatal("create strict: ", created, err)
		}
	}
	refused := func(what string, err error, why string) {
		if err == nil || !strings.Contains(err.Error(), why) {
			log.Fatal(what, ": expected ", why, ", got ", err)
		}
		log.Print(what, ": ", err)
	}
	try := func(what string, err error) {
		if err != nil {
			log.Fatal(what, ": ", err)
		}
	}
	strict()
	try("start", runtime.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: container("strict")}))
	resources := &api.LinuxResources{Cpu: &api.LinuxCPU{Cpus: "0-1"}}
	updated, err := runtime.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: pod, Container: container("strict"), LinuxResources: resources,
	})
	if err != nil || len(updated.Update) != 1 || updated.Update[0].Linux.Resources.Cpu.Cpus != "1" {
		log.Fatal("update strict: ", updated, err)
	}
	_, err = runtime.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: container("strict")})
	try("stop", err)
	try("remove", runtime.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: container("strict")}))

	untouched, err := create("ordinary")
	try("create ordinary", err)
	if len(untouched.Adjust.GetMounts()) != 0 || untouched.Adjust.Linux.Resources.Cpu.Cpus != "0" {
		log.Fatal("ordinary was adjusted: ", untouched)
	}
	_, err = create("refused")
	refused("create refused", err, "no policy of this name")
	err = runtime.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: container("unstartable")})
	refused("start unstartable", err, "not the shim")
	// A plugin that is cut off is asked no more, and its containers are created as if it were not there.
	_, err = create("slow")
	refused("create slow", err, "did not decide on CreateContainer")
	time.Sleep(2 * time.Second)
	strict()
}
