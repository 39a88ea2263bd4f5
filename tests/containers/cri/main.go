// SPDX-License-Identifier: Apache-2.0

// Command cri drives a container runtime through its CRI socket the way a kubelet does: one pod,
// one container.
//
//	cri SOCKET version
//	cri SOCKET run NAME NAMESPACE IMAGE COMMAND [ARG…]   prints POD-ID CONTAINER-ID POD-UID
//	cri SOCKET list
//	cri SOCKET remove NAME
//
// CRI_LABELS and CRI_ANNOTATIONS (key=value,…) are put on the pod, CRI_ATTEMPT is the container's.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

// pairs reads key=value,… of a variable into m.
func pairs(variable string, m map[string]string) map[string]string {
	for _, pair := range strings.Split(os.Getenv(variable), ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			m[k] = v
		}
	}
	return m
}

func run(ctx context.Context, rt cri.RuntimeServiceClient, name, ns, image string, cmd []string) {
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012x", time.Now().UnixNano()&0xffffffffffff)
	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
	identity := func() map[string]string {
		return map[string]string{
			"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": ns, "io.kubernetes.pod.uid": uid,
		}
	}
	labels := identity()
	labels["app"] = name
	pod := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: ns, Uid: uid},
		LogDirectory: os.TempDir(), Labels: pairs("CRI_LABELS", labels),
		Annotations: pairs("CRI_ANNOTATIONS", map[string]string{"kubernetes.io/config.source": "api"}),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/burstable/pod" + uid,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: host},
		},
	}
	p, err := rt.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	check(err)
	attempt, _ := strconv.Atoi(os.Getenv("CRI_ATTEMPT"))
	of := identity()
	of["io.kubernetes.container.name"] = "main"
	c, err := rt.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: p.PodSandboxId, SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main", Attempt: uint32(attempt)},
			Image:    &cri.ImageSpec{Image: image},
			Command:  cmd, Labels: of, LogPath: name + ".log",
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuPeriod: 100000, CpuQuota: 50000},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: host},
			},
		},
	})
	check(err)
	_, err = rt.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId})
	check(err)
	fmt.Println(p.PodSandboxId, c.ContainerId, uid)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET version|run NAME NAMESPACE IMAGE COMMAND…|list|remove NAME")
		os.Exit(2)
	}
	conn, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	rt := cri.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	switch os.Args[2] {
	case "version":
		v, err := rt.Version(ctx, &cri.VersionRequest{})
		check(err)
		fmt.Println(v.RuntimeName, v.RuntimeVersion, "CRI", v.RuntimeApiVersion)
	case "run":
		run(ctx, rt, os.Args[3], os.Args[4], os.Args[5], os.Args[6:])
	case "list":
		l, err := rt.ListContainers(ctx, &cri.ListContainersRequest{})
		check(err)
		for _, c := range l.Containers {
			fmt.Println(c.Id, c.State, c.Labels["io.kubernetes.pod.namespace"]+"/"+c.Labels["io.kubernetes.pod.name"], c.Metadata.Name, c.Image.Image)
		}
	case "remove":
		of := map[string]string{"app": os.Args[3]}
		l, err := rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: of}})
		check(err)
		for _, p := range l.Items {
			_, err = rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id})
			check(err)
			_, err = rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
			check(err)
		}
	}
}
