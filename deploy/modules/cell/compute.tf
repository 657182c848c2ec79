# Tasks on Fargate, ARM. A part is a kind of task; of those that belong to a copy of the hot store there is one for each copy, the second with the suffix -b.
#
# The configuration of a task is part of its definition: the very files of distributions/, as environment variables. So image, settings and configuration change
# together, a change is a rolling deployment, and a deployment that is rolled back finds the configuration that it had. Secrets are references.

locals {
  dist    = "${path.module}/../../../distributions"
  copies  = var.clickhouse.cloud == null ? slice(["a", "b"], 0, var.clickhouse.copies) : sort(keys(var.clickhouse.cloud))
  suffix  = { a = "", b = "-b" }
  outward = ["probe", "worker", "operator"] # reach the internet: they run in edge subnets, with an address of their own and no open port

  config = {
    gateway        = file("${local.dist}/gateway/config.yaml")
    gateway_aws    = file("${local.dist}/gateway/aws.yaml")
    aggregator     = file("${local.dist}/aggregator/config.yaml")
    aggregator_aws = file("${local.dist}/aggregator/aws.yaml")
  }
  from_env = ["--config", "env:PULSEGRID_CONFIG", "--config", "env:PULSEGRID_CONFIG_AWS"]

  object_url = { for name, b in aws_s3_bucket.store : name => "s3://${b.bucket}" }
  cell_env = {
    AWS_REGION             = local.region
    PULSEGRID_CELL         = var.cell
    PULSEGRID_JURISDICTION = var.jurisdiction
  }
  gateway_env = merge(local.cell_env, {
    PULSEGRID_KAFKA_BROKERS    = aws_msk_cluster.cell.bootstrap_brokers_sasl_iam
    PULSEGRID_PARTITIONS       = tostring(var.kafka.partitions)
    PULSEGRID_TENANTS          = "${local.object_url["registry"]}/tenants?region=${local.region}"
    PULSEGRID_SCHEMAS          = "${local.object_url["registry"]}/schemas?region=${local.region}"
    PULSEGRID_CELL_STATE       = "${local.object_url["registry"]}/cell?region=${local.region}"
    PULSEGRID_SCHEMA_MODE      = var.schema_mode
    PULSEGRID_QUARANTINE_STORE = "${local.object_url["quarantine"]}?region=${local.region}&prefix=quarantine/"
    PULSEGRID_SPILL            = "${local.object_url["spill"]}?region=${local.region}&prefix=spill/"
  })
  # Of whatever reads an aggregator's configuration: user is its user of ClickHouse.
  stores_env = { for copy in local.copies : copy => merge(local.cell_env, {
    PULSEGRID_CONFIG          = local.config.aggregator
    PULSEGRID_CONFIG_AWS      = local.config.aggregator_aws
    PULSEGRID_KAFKA_BROKERS   = aws_msk_cluster.cell.bootstrap_brokers_sasl_iam
    PULSEGRID_CLICKHOUSE_HTTP = "${local.clickhouse_host[copy]}:8443"
    PULSEGRID_HOT_COPY        = local.suffix[copy]
    PULSEGRID_LAKE_WAREHOUSE  = "${local.object_url["lake"]}/warehouse"
  }) }

  secret = { for name, s in aws_secretsmanager_secret.cell : name => s.arn }
  tls_secrets = {
    PULSEGRID_TLS_CERT_PEM = "${local.secret["internal-tls"]}:cert::"
    PULSEGRID_TLS_KEY_PEM  = "${local.secret["internal-tls"]}:key::"
  }
  # ClickHouse Cloud has a certificate that everybody trusts.
  ca_secret = var.clickhouse.cloud == null ? { PULSEGRID_CLICKHOUSE_CA_PEM = "${local.secret["internal-tls"]}:ca::" } : {}
  clickhouse_secrets = { for user in ["writer", "alerts", "probe"] : user => merge(local.ca_secret, {
    PULSEGRID_CLICKHOUSE_PASSWORD = "${local.secret["clickhouse"]}:${user}::"
  }) }

  worker_env = { for copy in local.copies : copy => merge(local.gateway_env, local.stores_env[copy], {
    PULSEGRID_CLICKHOUSE_USERNAME = "writer"
    PULSEGRID_GATEWAY_CONFIG      = local.config.gateway
    PULSEGRID_GATEWAY_CONFIG_AWS  = local.config.gateway_aws
    }, var.temporal == null ? {} : {
    TEMPORAL_ADDRESS   = var.temporal.address
    TEMPORAL_NAMESPACE = "${var.temporal.namespace}${local.suffix[copy]}"
    TEMPORAL_TLS       = "true"
  }) }
  worker_secrets = merge(local.clickhouse_secrets.writer, var.temporal == null ? {} : { TEMPORAL_API_KEY = local.secret["temporal"] })

  # What runs. job and port are of its metrics: Prometheus' rules go by the job's name. service: false for what somebody starts by hand.
  parts = merge(
    {
      gateway = {
        id      = "gateway", job = "pulsegrid-gateway", port = 8888, service = true
        command = local.from_env
        env = merge(local.gateway_env, {
          PULSEGRID_CONFIG     = local.config.gateway
          PULSEGRID_CONFIG_AWS = local.config.gateway_aws
        })
        secrets = local.tls_secrets
        ports   = [4317, 4318, 13133, 13135]
      }
    },
    { for copy in local.copies : "aggregator${local.suffix[copy]}" => {
      id      = "aggregator", job = "pulsegrid-aggregator", port = 8888, service = true
      command = local.from_env
      env     = merge(local.stores_env[copy], { PULSEGRID_CLICKHOUSE_USERNAME = "writer" })
      secrets = local.clickhouse_secrets.writer
      ports   = [13133]
    } },
    { for copy in local.copies : "probe${local.suffix[copy]}" => {
      id = "probe", job = "pulsegrid-probe", port = 8891, service = true
      command = concat(["probe", "--http", "https://${local.hostname}:4318", "--grpc", "https://${local.hostname}:4317",
      "--metrics", "127.0.0.1:8891"], local.from_env)
      env     = merge(local.stores_env[copy], { PULSEGRID_CLICKHOUSE_USERNAME = "probe" })
      secrets = merge(local.clickhouse_secrets.probe, { PULSEGRID_API_KEY = local.secret["probe"] })
      ports   = []
    } },
    { for copy in local.copies : "alerts${local.suffix[copy]}" => {
      id = "alerts", job = "pulsegrid-alerts", port = 8892, service = true
      command = concat(["alerts", "run", "--alertmanager", "${trimsuffix(aws_prometheus_workspace.cell.prometheus_endpoint, "/")}/alertmanager",
      "--sigv4-region", local.region, "--state", "/tmp/alerts.json", "--metrics", "127.0.0.1:8892"], local.from_env)
      env     = merge(local.stores_env[copy], { PULSEGRID_CLICKHOUSE_USERNAME = "alerts" })
      secrets = local.clickhouse_secrets.alerts
      ports   = []
    } },
    { for copy in local.copies : "worker${local.suffix[copy]}" => {
      id = "worker", job = "pulsegrid-worker", port = 8890, service = true
      command = concat(["job", "worker", "--schedule", "--metrics", "127.0.0.1:8890",
      "--gateway", "env:PULSEGRID_GATEWAY_CONFIG", "--gateway", "env:PULSEGRID_GATEWAY_CONFIG_AWS"], local.from_env)
      env     = local.worker_env[copy]
      secrets = local.worker_secrets
      ports   = []
    } if var.temporal != null },
    { for copy in local.copies : "operator${local.suffix[copy]}" => {
      id      = "operator", job = "", port = 0, service = false
      command = ["--help"]
      env     = local.worker_env[copy]
      secrets = local.worker_secrets
      ports   = []
    } },
    {
      scraper = {
        id      = "scraper", job = "", port = 0, service = true
        command = []
        env     = { AWS_REGION = local.region, AOT_CONFIG_CONTENT = local.scraper_config }
        secrets = {}
        ports   = []
      }
    }
  )
  services = { for name, p in local.parts : name => p if p.service }
  images = {
    gateway  = var.images.collector, aggregator = var.images.collector
    operator = var.images.operator, worker = var.images.operator, probe = var.images.operator, alerts = var.images.operator
    scraper  = var.images.metrics
  }

  # A container's standard output, to the log group of its part.
  logging = { for id in local.task_ids : id => {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.part[id].name
      awslogs-region        = local.region
      awslogs-stream-prefix = id
      mode                  = "non-blocking" # a log that is not taken must not stop what it tells of
      max-buffer-size       = "16m"
    }
  } }
}

resource "aws_ecr_repository" "image" {
  for_each             = toset(["collector", "operator", "clickhouse", "metrics"])
  name                 = "${local.prefix}/${each.key}"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection
  image_scanning_configuration {
    scan_on_push = true
  }
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.cell.arn
  }
}

resource "aws_ecr_lifecycle_policy" "image" {
  for_each   = aws_ecr_repository.image
  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the newest 30: further back nobody rolls"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 30 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_cloudwatch_log_group" "part" {
  for_each          = toset(concat(tolist(local.task_ids), ["clickhouse", "kafka", "flow"]))
  name              = "/pulsegrid/${var.cell}/${each.key}"
  retention_in_days = var.log_days
  kms_key_id        = aws_kms_key.cell.arn
}

resource "aws_ecs_cluster" "cell" {
  name = local.prefix
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "part" {
  for_each                 = local.parts
  family                   = "${local.prefix}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.sizes[each.value.id].cpu
  memory                   = var.sizes[each.value.id].memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task[each.value.id].arn
  skip_destroy             = var.deletion_protection # a revision that may be rolled back to stays
  runtime_platform {
    cpu_architecture        = "ARM64"
    operating_system_family = "LINUX"
  }
  container_definitions = jsonencode(concat(
    [{ for field, value in {
      name                   = each.value.id
      image                  = local.images[each.value.id]
      essential              = true
      command                = each.value.command
      readonlyRootFilesystem = true
      user                   = "65532:65532"
      stopTimeout            = 120 # Fargate's most: requests under way, the last blocks
      environment = [for name, value in merge(each.value.env, {
        # Go gives memory back before the task is killed; the sidecar and /tmp take the rest.
        GOMEMLIMIT = "${floor(var.sizes[each.value.id].memory * 0.75)}MiB"
      }) : { name = name, value = value }]
      secrets = [for name, arn in each.value.secrets : { name = name, valueFrom = arn }]
      # The image's own: without a shell there is no curl.
      healthCheck      = each.value.port == 0 ? null : { command = concat(["CMD", "/healthcheck"], each.value.id == "gateway" || each.value.id == "aggregator" ? [] : ["http://127.0.0.1:${each.value.port}/metrics"]), interval = 10, timeout = 5, retries = 3, startPeriod = 60 }
      portMappings     = [for p in each.value.ports : { containerPort = p, hostPort = p, protocol = "tcp" }]
      logConfiguration = local.logging[each.value.id]
      linuxParameters = {
        tmpfs        = [{ containerPath = "/tmp", size = floor(var.sizes[each.value.id].memory / 8), mountOptions = ["nosuid", "nodev", "noexec", "mode=1777"] }]
        capabilities = { drop = ["ALL"] }
      }
      mountPoints    = []
      systemControls = []
      volumesFrom    = []
    } : field => value if value != null }],
    each.value.port == 0 ? [] : [{
      name                   = "metrics"
      image                  = var.images.metrics
      essential              = false # without its metrics a task does its work
      readonlyRootFilesystem = true
      memory                 = 128
      environment = [
        { name = "AWS_REGION", value = local.region },
        { name = "AOT_CONFIG_CONTENT", value = local.sidecar_config[each.key] },
      ]
      logConfiguration = local.logging[each.value.id]
      mountPoints      = []
      portMappings     = []
      systemControls   = []
      volumesFrom      = []
    }],
  ))
}

resource "aws_ecs_service" "part" {
  for_each                           = local.services
  name                               = each.key
  cluster                            = aws_ecs_cluster.cell.id
  task_definition                    = aws_ecs_task_definition.part[each.key].arn
  desired_count                      = var.sizes[each.value.id].min
  launch_type                        = "FARGATE"
  availability_zone_rebalancing      = "ENABLED"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = each.key == "gateway" ? 60 : null
  propagate_tags                     = "SERVICE"
  enable_ecs_managed_tags            = true
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets          = [for s in(contains(local.outward, each.value.id) ? aws_subnet.edge : aws_subnet.inner) : s.id]
    security_groups  = [aws_security_group.task[each.value.id].id]
    assign_public_ip = contains(local.outward, each.value.id)
  }
  dynamic "load_balancer" {
    for_each = each.key == "gateway" ? local.targets : {}
    content {
      target_group_arn = aws_lb_target_group.gateway[load_balancer.key].arn
      container_name   = "gateway"
      container_port   = load_balancer.value.port
    }
  }
  lifecycle {
    ignore_changes = [desired_count] # autoscaling's, from then on
  }
  depends_on = [aws_lb_listener.otlp, aws_lb_listener.health, aws_iam_role_policy.task, aws_iam_role_policy.execution]
}

resource "aws_appautoscaling_target" "part" {
  for_each           = local.services
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.cell.name}/${aws_ecs_service.part[each.key].name}"
  min_capacity       = var.sizes[each.value.id].min
  max_capacity       = var.sizes[each.value.id].max
}

resource "aws_appautoscaling_policy" "cpu" {
  for_each           = { for name, p in local.services : name => p if contains(["gateway", "aggregator"], p.id) }
  name               = "cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.part[each.key].service_namespace
  scalable_dimension = aws_appautoscaling_target.part[each.key].scalable_dimension
  resource_id        = aws_appautoscaling_target.part[each.key].resource_id
  target_tracking_scaling_policy_configuration {
    target_value       = each.value.id == "gateway" ? 45 : 60 # a gateway must take twice its load while a zone is away
    scale_in_cooldown  = 600
    scale_out_cooldown = 30
    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

# Target tracking waits three minutes. A burst does not.
resource "aws_appautoscaling_policy" "burst" {
  name               = "burst"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.part["gateway"].service_namespace
  scalable_dimension = aws_appautoscaling_target.part["gateway"].scalable_dimension
  resource_id        = aws_appautoscaling_target.part["gateway"].resource_id
  step_scaling_policy_configuration {
    adjustment_type         = "PercentChangeInCapacity"
    cooldown                = 60
    metric_aggregation_type = "Maximum"
    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 100
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "burst" {
  alarm_name          = "${local.prefix}-burst"
  alarm_description   = "Doubles the gateways; pages nobody"
  namespace           = "AWS/ECS"
  metric_name         = "CPUUtilization"
  dimensions          = { ClusterName = aws_ecs_cluster.cell.name, ServiceName = "gateway" }
  statistic           = "Average"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 75
  period              = 60
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.burst.arn]
}
