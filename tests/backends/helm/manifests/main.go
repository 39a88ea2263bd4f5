// SPDX-License-Identifier: Apache-2.0

// manifests reads Kubernetes manifests as the API server would, each as the type that it names: an
// unknown or doubled field is an error, and so is a reference within them that leads nowhere.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	if err := run(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader) error {
	if err := monitoring.AddToScheme(scheme.Scheme); err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	reader := yaml.NewYAMLReader(bufio.NewReader(in))
	var all []runtime.Object
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		object, kind, err := decoder.Decode(text, nil, nil)
		if runtime.IsMissingKind(err) && len(text) < 80 {
			continue // Only comments.
		} else if err != nil {
			return fmt.Errorf("%w\n%s", err, text)
		}
		fmt.Println(kind.Kind, object.(meta.Object).GetName())
		all = append(all, object)
	}
	if len(all) == 0 {
		return errors.New("there is no manifest")
	}
	var problems []error
	for _, object := range all {
		problems = append(problems, names(object.(meta.Object))...)
		if d, ok := object.(*apps.DaemonSet); ok {
			problems = append(problems, daemonSet(d, all)...)
		}
		if b, ok := object.(*rbac.ClusterRoleBinding); ok && !named[*rbac.ClusterRole](all, b.RoleRef.Name) {
			problems = append(problems, fmt.Errorf("there is no ClusterRole %s", b.RoleRef.Name))
		}
	}
	return errors.Join(problems...)
}

func named[T meta.Object](all []runtime.Object, name string) bool {
	for _, o := range all {
		if t, ok := o.(T); ok && t.GetName() == name {
			return true
		}
	}
	return false
}

func names(o meta.Object) (problems []error) {
	for _, why := range validation.IsDNS1123Subdomain(o.GetName()) {
		problems = append(problems, fmt.Errorf("name %q: %s", o.GetName(), why))
	}
	for key, value := range o.GetLabels() {
		for _, why := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
			problems = append(problems, fmt.Errorf("label %s=%s: %s", key, value, why))
		}
	}
	return problems
}

func daemonSet(d *apps.DaemonSet, all []runtime.Object) (problems []error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	pod := d.Spec.Template
	selector, err := meta.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
		wrong("the selector does not match the pods: %v", err)
	}
	if !named[*core.ServiceAccount](all, pod.Spec.ServiceAccountName) && pod.Spec.ServiceAccountName != "default" {
		wrong("there is no ServiceAccount %s", pod.Spec.ServiceAccountName)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		if len(validation.IsDNS1123Label(v.Name)) > 0 || volumes[v.Name] {
			wrong("volume %q: a name that cannot be, or twice", v.Name)
		}
		volumes[v.Name] = false
		if v.ConfigMap != nil && v.Name == "config" && !named[*core.ConfigMap](all, v.ConfigMap.Name) {
			wrong("there is no ConfigMap %s", v.ConfigMap.Name)
		}
	}
	for _, c := range pod.Spec.Containers {
		ports, paths := map[string]bool{}, map[string]bool{}
		for _, p := range c.Ports {
			ports[p.Name] = true
		}
		for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if p == nil || p.HTTPGet == nil || !ports[p.HTTPGet.Port.StrVal] {
				wrong("a probe is missing or asks no port of the container: %v", p)
			}
		}
		for _, m := range c.VolumeMounts {
			if _, known := volumes[m.Name]; !known || paths[m.MountPath] {
				wrong("mount %s at %s: no such volume, or something is mounted there", m.Name, m.MountPath)
			}
			volumes[m.Name], paths[m.MountPath] = true, true
		}
		s := c.SecurityContext
		if s == nil || s.Privileged == nil || *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
			wrong("container %s is privileged, or may become so", c.Name)
		}
	}
	for name, used := range volumes {
		if !used {
			wrong("volume %s is mounted nowhere", name)
		}
	}
	return problems
}
