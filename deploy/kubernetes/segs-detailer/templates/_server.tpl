{{/* A Deployment of servers. Takes a dict of root, track, replicas (nil: left to the autoscaler)
     and folder, of the pipelines. */}}
{{- define "segs.servers" -}}
{{- $values := .root.Values -}}
{{- $server := $values.server -}}
{{- $build := eq $values.pipelines.from "build" -}}
{{- $ownTls := and $values.tls.secret (not $values.proxy.enabled) -}}
{{- $labels := dict "root" .root "component" "server" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "segs.fullname" .root }}-{{ .track }}
  labels:
    {{- include "segs.labels" $labels | nindent 4 }}
    segs-detailer/track: {{ .track }}
spec:
  {{- if ne .replicas nil }}
  replicas: {{ .replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "segs.selector" $labels | nindent 6 }}
      segs-detailer/track: {{ .track }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ $values.rollout.maxSurge }}
      maxUnavailable: {{ $values.rollout.maxUnavailable }}
  # The next server is replaced only when this one has served for a while.
  minReadySeconds: 10
  progressDeadlineSeconds: {{ add $server.startSeconds 600 (ternary $values.pipelines.build.seconds 0 $build) }}
  template:
    metadata:
      labels:
        {{- include "segs.labels" $labels | nindent 8 }}
        segs-detailer/track: {{ .track }}
        {{- with $server.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        kubectl.kubernetes.io/default-container: server
        {{- include "segs.scraped" (dict "root" .root "port" 8002 "path" "/metrics") | nindent 8 }}
        {{- with $server.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ include "segs.fullname" .root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      # The pause process reaps what others leave behind.
      shareProcessNamespace: true
      {{- with $values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $server.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      securityContext:
        {{- include "segs.podSecurity" .root | nindent 8 }}
      # Longer than the pause before draining, draining, stopping, and what the server takes beyond.
      terminationGracePeriodSeconds: {{ add 5 $server.drainSeconds $server.stopSeconds 15 }}
      {{- if $build }}
      initContainers:
        {{- range $index, $each := $values.pipelines.build.pipelines }}
        - name: build-{{ $index }}
          image: "{{ $values.image.repository }}:{{ $values.image.tag }}"
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args:
            - /opt/venv/bin/python
            - -m
            - build_engines
            - {{ printf "/checkpoints/%s" $each.checkpoint | quote }}
            - --name={{ $each.name }}
            - --target={{ $values.pipelines.build.target }}
            - --precision={{ $values.pipelines.build.precision }}
            - --repository=/pipelines
            {{- range $each.options }}
            - {{ . | quote }}
            {{- end }}
          securityContext:
            {{- include "segs.containerSecurity" $ | nindent 12 }}
          resources:
            {{- include "segs.resources" $server | nindent 12 }}
          volumeMounts:
            - { name: checkpoints, mountPath: /checkpoints, readOnly: true }
            - { name: pipelines, mountPath: /pipelines }
            - { name: shared-memory, mountPath: /dev/shm }
            - { name: temporary, mountPath: /tmp }
        {{- end }}
      {{- end }}
      containers:
        - name: server
          image: "{{ $values.image.repository }}:{{ $values.image.tag }}"
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args:
            - /opt/venv/bin/python
            - -m
            - serving
            - serve
            - --repository=/pipelines
            - --host=0.0.0.0
            - --grpc-port=8001
            - --metrics-port=8002
            - --health-port=8003
            - --grpc-health-port=8004
            - --start-timeout={{ $server.startSeconds }}
            - --drain-timeout={{ $server.drainSeconds }}
            - --stop-timeout={{ $server.stopSeconds }}
            {{- if $values.apiKeysSecret }}
            - --api-keys=/etc/segs/api-keys/keys
            {{- end }}
            {{- if $ownTls }}
            - --tls-cert=/etc/segs/tls/tls.crt
            - --tls-key=/etc/segs/tls/tls.key
            {{- if $values.tls.clientCa }}
            - --tls-client-ca=/etc/segs/tls/{{ $values.tls.clientCa }}
            {{- end }}
            {{- end }}
            {{- range $server.options }}
            - {{ . | quote }}
            {{- end }}
          {{- with $values.tracing.endpoint }}
          env:
            - { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
            - { name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio }
            - { name: OTEL_TRACES_SAMPLER_ARG, value: {{ $values.tracing.share | quote }} }
          {{- end }}
          ports:
            - { name: grpc, containerPort: 8001 }
            - { name: metrics, containerPort: 8002 }
            - { name: health, containerPort: 8003 }
            - { name: grpc-health, containerPort: 8004 }
          # Readiness is by canaries: a server that is ready has made a picture with each network.
          startupProbe:
            httpGet: { path: /health/ready, port: health }
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: {{ div $server.startSeconds 5 }}
          readinessProbe:
            httpGet: { path: /health/ready, port: health }
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 1
          livenessProbe:
            httpGet: { path: /health/live, port: health }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle:
            # Balancers take it out before it refuses requests.
            preStop: { exec: { command: [sleep, "5"] } }
          securityContext:
            {{- include "segs.containerSecurity" .root | nindent 12 }}
          resources:
            {{- include "segs.resources" $server | nindent 12 }}
          volumeMounts:
            - name: pipelines
              mountPath: /pipelines
              readOnly: true
              {{- if and .folder (not $build) }}
              subPath: {{ .folder }}
              {{- end }}
            - { name: shared-memory, mountPath: /dev/shm }
            - { name: temporary, mountPath: /tmp }
            {{- if $values.apiKeysSecret }}
            - { name: api-keys, mountPath: /etc/segs/api-keys, readOnly: true }
            {{- end }}
            {{- if $ownTls }}
            - { name: tls, mountPath: /etc/segs/tls, readOnly: true }
            {{- end }}
      volumes:
        {{- if $build }}
        - name: pipelines
          emptyDir: { sizeLimit: {{ $values.pipelines.build.size }} }
        - name: checkpoints
          persistentVolumeClaim: { claimName: {{ $values.pipelines.build.checkpointsClaim }}, readOnly: true }
        {{- else }}
        - name: pipelines
          persistentVolumeClaim: { claimName: {{ $values.pipelines.claim }}, readOnly: true }
        {{- end }}
        - name: shared-memory
          emptyDir: { medium: Memory, sizeLimit: {{ $server.sharedMemory }} }
        - name: temporary
          emptyDir: { medium: Memory, sizeLimit: {{ $server.temporary }} }
        {{- if $values.apiKeysSecret }}
        - name: api-keys
          secret: { secretName: {{ $values.apiKeysSecret }}, defaultMode: 0440 }
        {{- end }}
        {{- if $ownTls }}
        - name: tls
          secret: { secretName: {{ $values.tls.secret }}, defaultMode: 0440 }
        {{- end }}
      {{- with $server.spreadOver }}
      topologySpreadConstraints:
        {{- range . }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "segs.selector" $labels | nindent 14 }}
        {{- end }}
      {{- end }}
      {{- include "segs.placement" $server | nindent 6 }}
{{- end -}}

{{- define "segs.resources" -}}
requests:
  {{- toYaml .resources.requests | nindent 2 }}
limits:
  {{- with .resources.limits }}{{ toYaml . | nindent 2 }}{{ end }}
  {{ .gpuResource }}: 1
{{- end -}}

{{- define "segs.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
