{{- define "remuda.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Labels that selectors use. Agents listen to pods with the first one. */ -}}
{{- define "remuda.selector" -}}
app.kubernetes.io/name: remuda
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "remuda.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The settings of broker and controller: those of the values, over them config. */ -}}
{{- define "remuda.config" -}}
{{- $kubernetes := dict
  "namespace" .Values.groups.namespace "system_namespace" .Release.Namespace "broker" .Values.broker.name
  "image" .Values.members.image "storage_class" .Values.groups.storageClass "ephemeral" .Values.groups.ephemeral
  "address" .Values.groups.address "pod_security" .Values.groups.podSecurity "cpu_limit" .Values.groups.cpuLimit
  "image_pull_policy" .Values.members.pullPolicy "image_pull_secrets" .Values.members.pullSecrets -}}
{{- $config := dict
  "listen" ":8080" "backend" "kubernetes" "state_dir" "/var/lib/remuda/state"
  "password_file" "/etc/remuda/platform/password" "seal_key_file" "/etc/remuda/seal/seal.key"
  "offerings" .Values.offerings "kubernetes" $kubernetes "pools" .Values.pools "limits" .Values.limits
  "dashboard" (dict "url" .Values.dashboard.url) -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}

{{- define "remuda.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "remuda.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "remuda.selector" . | nindent 6 }}
{{- end }}
