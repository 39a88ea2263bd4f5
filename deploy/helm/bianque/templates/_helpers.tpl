{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- define "bianque.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "bianque.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bianque.labels" -}}
{{ include "bianque.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "bianque.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "bianque.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}{{- end -}}
{{- end -}}

{{- /* A table as lines `path.to.key = value`. A scalar or a list of them is the same in JSON and TOML. */ -}}
{{- define "bianque.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- $key = ternary $key (toJson $key) (regexMatch "^[A-Za-z0-9_-]+$" $key) }}
{{- $here := ternary $key (printf "%s.%s" $path $key) (empty $path) }}
{{- if kindIs "map" $value }}{{ include "bianque.toml" (dict "path" $here "table" $value) }}
{{- else if not (kindIs "invalid" $value) }}
{{ $here }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bianque.config" -}}
{{- $http := dict "listen" (printf "%s:%d" (ternary (printf "[%s]" .Values.http.address) .Values.http.address (contains ":" .Values.http.address)) (int .Values.http.port)) -}}
{{- with .Values.http.tokenSecret }}{{ if .name }}{{ $_ := set $http "token_file" "/etc/bianque/http-token/token" }}{{ end }}{{ end -}}
{{- with .Values.http.tlsSecret -}}
{{- if .name }}{{ $_ := set $http "certificate_file" "/etc/bianque/http-tls/tls.crt" }}{{ $_ := set $http "key_file" "/etc/bianque/http-tls/tls.key" }}{{ end -}}
{{- if .clientCa }}{{ $_ := set $http "client_ca_file" "/etc/bianque/http-tls/ca.crt" }}{{ end -}}
{{- end -}}
{{- if not (or (hasPrefix "127." .Values.http.address) (eq .Values.http.address "::1") .Values.http.tokenSecret.name .Values.http.tlsSecret.clientCa) -}}
{{- fail (printf "http.address %s can be reached from other machines: name http.tokenSecret, or an http.tlsSecret with clientCa" .Values.http.address) -}}
{{- end -}}
{{- if and .Values.http.tlsSecret.clientCa (not .Values.http.tlsSecret.name) -}}{{- fail "http.tlsSecret.clientCa needs http.tlsSecret.name" -}}{{- end -}}
{{- if hasKey .Values.config "http" -}}{{- fail "config.http is made from the values under http" -}}{{- end -}}
# Made by Helm from the values of {{ .Release.Name }}.
{{- include "bianque.toml" (dict "path" "" "table" (merge (dict "http" $http) .Values.config)) }}
{{ end -}}
