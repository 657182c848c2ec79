# What a cell is told. docs/deploy.md explains the choices; every default is a cell that takes 100,000 events a second.

variable "cell" {
  description = "Name of the cell, as the registry of tenants and cells.yaml have it (docs/regions.md), for example eu-1. Part of every resource's name; it can never be changed."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}-[1-9][0-9]?$", var.cell))
    error_message = "cell: want two lower case letters, a hyphen and a number from 1 to 99, such as eu-1."
  }
}

variable "jurisdiction" {
  description = "Where data of this cell may be: tenants that are pinned to another jurisdiction are refused. The region of the provider must lie in it."
  type        = string
  validation {
    condition     = contains(["eu", "us"], var.jurisdiction)
    error_message = "jurisdiction: want eu or us. Another one needs a line in local.jurisdiction_regions too."
  }
}

variable "domain" {
  description = "Name that agents send to. The cell answers to CELL.DOMAIN, JURISDICTION.DOMAIN and DOMAIN, for example eu-1.ingest.example.com."
  type        = string
  validation {
    condition     = can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain: want a DNS name in lower case without a dot at its end, such as ingest.example.com."
  }
}

variable "zone_id" {
  description = "Route 53 hosted zone of `domain`."
  type        = string
}

variable "vpc_cidr" {
  description = "Addresses of the cell's network. Cells do not reach each other, but give each its own, so that they could be peered."
  type        = string
  default     = "10.0.0.0/16"
  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]), 32) <= 18
    error_message = "vpc_cidr: want an IPv4 network of at least 16,384 addresses, such as 10.1.0.0/16: every task takes one."
  }
}

variable "zones" {
  description = "Names of the three availability zones, of the provider's region. The first two hold the copies of ClickHouse."
  type        = list(string)
  validation {
    condition     = length(distinct(var.zones)) == 3
    error_message = "zones: want three different availability zones: Kafka keeps a replica in each."
  }
}

variable "images" {
  description = <<-E
    Images by digest, REPOSITORY@sha256:DIGEST, so that a task that is started again runs what was tried. `make image` makes the first two.
    clickhouse is clickhouse/clickhouse-server; metrics is AWS's distribution of the Collector (public.ecr.aws/aws-observability/aws-otel-collector), which
    carries metrics to Managed Prometheus. Copy those two into the cell's ECR: its inner network does not reach the internet.
  E
  type = object({
    collector  = string # gateway and aggregator
    operator   = string # the command pulsegrid: worker, probe, alerts
    clickhouse = string
    metrics    = string
  })
  validation {
    condition     = alltrue([for image in values(var.images) : can(regex("^[^@ ]+@sha256:[0-9a-f]{64}$", image))])
    error_message = "images: want each as REPOSITORY@sha256:DIGEST with 64 hexadecimal digits. A tag is not enough: it may name another image tomorrow."
  }
}

variable "sizes" {
  description = <<-E
    Size of the tasks of each service: cpu in 1/1024 vCPU, memory in MiB as Fargate offers them, and how many run at least and at most. Autoscaling moves between
    min and max. More aggregators than partitions (`kafka.partitions`) are idle. aggregator is of each copy of the hot store; worker, probe and alerts run once for each copy.
  E
  type = object({
    gateway    = optional(object({ cpu = optional(number, 2048), memory = optional(number, 4096), min = optional(number, 3), max = optional(number, 24) }), {})
    aggregator = optional(object({ cpu = optional(number, 4096), memory = optional(number, 16384), min = optional(number, 3), max = optional(number, 24) }), {})
    worker     = optional(object({ cpu = optional(number, 2048), memory = optional(number, 8192), min = optional(number, 1), max = optional(number, 1) }), {})
    operator   = optional(object({ cpu = optional(number, 2048), memory = optional(number, 8192), min = optional(number, 0), max = optional(number, 0) }), {})
    probe      = optional(object({ cpu = optional(number, 256), memory = optional(number, 512), min = optional(number, 1), max = optional(number, 1) }), {})
    alerts     = optional(object({ cpu = optional(number, 512), memory = optional(number, 1024), min = optional(number, 1), max = optional(number, 1) }), {})
    scraper    = optional(object({ cpu = optional(number, 256), memory = optional(number, 512), min = optional(number, 1), max = optional(number, 1) }), {})
  })
  default = {}
  validation { # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
    condition = alltrue([for name, s in var.sizes : contains(lookup({
      "256"   = [512, 1024, 2048]
      "512"   = range(1024, 4097, 1024)
      "1024"  = range(2048, 8193, 1024)
      "2048"  = range(4096, 16385, 1024)
      "4096"  = range(8192, 30721, 1024)
      "8192"  = range(16384, 61441, 4096)
      "16384" = range(32768, 122881, 8192)
    }, tostring(s.cpu), []), s.memory)])
    error_message = "sizes: Fargate does not offer this cpu with this memory: 256 with 512, 1024 or 2048; 512 with 1024 to 4096; 1024 with 2048 to 8192; 2048 with 4096 to 16384; 4096 with 8192 to 30720; 8192 with 16384 to 61440 by 4096; 16384 with 32768 to 122880 by 8192."
  }
  validation {
    condition     = alltrue([for name, s in var.sizes : s.min >= 0 && s.max >= s.min && s.max <= 500])
    error_message = "sizes: want 0 <= min <= max <= 500."
  }
  validation {
    condition     = var.sizes.gateway.min >= 3 && var.sizes.aggregator.min >= 1
    error_message = "sizes: want at least 3 gateways, one in each zone, so that a zone may go away, and 1 aggregator."
  }
}

variable "kafka" {
  description = <<-E
    The MSK cluster. instance_type express.* is MSK Express, which keeps its data itself; kafka.* are standard brokers with disks of `disk_gib` each. partitions is of
    each topic that the gateways make, and cannot be lowered later. version is MSK's name of it.
  E
  type = object({
    instance_type    = optional(string, "express.m7g.large")
    brokers_per_zone = optional(number, 1)
    version          = optional(string, "3.8.x")
    partitions       = optional(number, 48)
    disk_gib         = optional(number, 1000)
  })
  default = {}
  validation {
    condition     = can(regex("^express\\.m7g\\.(large|xlarge|2xlarge|4xlarge|8xlarge|12xlarge|16xlarge)$|^kafka\\.m7g\\.(large|xlarge|2xlarge|4xlarge|8xlarge|12xlarge|16xlarge)$", var.kafka.instance_type))
    error_message = "kafka.instance_type: want express.m7g.SIZE or kafka.m7g.SIZE, large to 16xlarge."
  }
  validation {
    condition     = var.kafka.brokers_per_zone >= 1 && var.kafka.brokers_per_zone <= 10
    error_message = "kafka.brokers_per_zone: want 1 to 10; 30 brokers are MSK's own limit of a cluster."
  }
  validation {
    condition     = var.kafka.partitions >= 3 && var.kafka.partitions <= 1000
    error_message = "kafka.partitions: want 3 to 1000."
  }
  validation {
    condition     = var.kafka.disk_gib >= 100 && var.kafka.disk_gib <= 16384
    error_message = "kafka.disk_gib: want 100 to 16384."
  }
}

variable "clickhouse" {
  description = <<-E
    The hot store. copies are independent servers, each filled by a consumer group of its own (decision 0067): a second one is a reserve, and half of the queries.
    shards is 1: the exporter writes each partition to one endpoint. disk_gib holds metadata, parts below 1 GiB and the cache of what lies in S3.
    cloud, if not null, takes ClickHouse Cloud instead of hosts: for each copy, named a or b, the PrivateLink service and the host name that Cloud shows.
  E
  type = object({
    copies        = optional(number, 2)
    shards        = optional(number, 1)
    instance_type = optional(string, "r8g.2xlarge")
    disk_gib      = optional(number, 1000)
    cloud         = optional(map(object({ service = string, host = string })))
  })
  default = {}
  validation {
    condition     = contains([1, 2], var.clickhouse.copies)
    error_message = "clickhouse.copies: want 1 or 2."
  }
  validation {
    condition     = var.clickhouse.shards == 1
    error_message = "clickhouse.shards: want 1. More need an aggregator that deals partitions to shards, which does not exist yet."
  }
  validation {
    condition     = can(regex("^[a-z0-9]*g[a-z]*\\.[0-9a-z]+$", var.clickhouse.instance_type))
    error_message = "clickhouse.instance_type: want a Graviton type such as r8g.2xlarge: the image of the host is for arm64."
  }
  validation {
    condition     = var.clickhouse.cloud == null ? true : alltrue([for name, c in var.clickhouse.cloud : contains(["a", "b"], name) && startswith(c.service, "com.amazonaws.vpce.")]) && length(var.clickhouse.cloud) > 0
    error_message = "clickhouse.cloud: want a (and b), each with the name of a PrivateLink service, com.amazonaws.vpce.REGION.vpce-svc-..."
  }
}

variable "temporal" {
  description = "Temporal, where jobs are kept (decision 0037): HOST:PORT and the namespace of this cell. Its API key goes into the secret temporal. null: no worker runs, jobs are run by hand (`deploy/task CELL job run ...`)."
  type        = object({ address = string, namespace = string })
  default     = null
  validation {
    condition     = var.temporal == null ? true : can(regex("^[^:/ ]+:[0-9]+$", var.temporal.address))
    error_message = "temporal.address: want HOST:PORT."
  }
}

variable "history_buckets" {
  description = "Buckets of the old collectors that backfills of this cell read (docs/runbooks/backfill.md): their ARNs. They must be encrypted by S3's own keys, or by a key whose policy lets the worker's and the operator's role decrypt."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for b in var.history_buckets : can(regex("^arn:[^:]+:s3:::[a-z0-9.-]+$", b))])
    error_message = "history_buckets: want ARNs such as arn:aws:s3:::old-collectors."
  }
}

variable "schema_mode" {
  description = "What gateways do with events that violate their schema, where the tenant's registry says nothing: warn counts them, enforce quarantines them, off does not look."
  type        = string
  default     = "warn"
  validation {
    condition     = contains(["warn", "enforce", "off"], var.schema_mode)
    error_message = "schema_mode: want warn, enforce or off."
  }
}

variable "lake_cold_days" {
  description = "Days after which files of the lake move to Glacier Instant Retrieval: a fifth of the price, and 0.03 USD for each GB that is read. They are never expired here: an Iceberg table names them, and `pulsegrid job run expiry` and upkeep know which it does not."
  type        = number
  default     = 60
  validation {
    condition     = var.lake_cold_days >= 30
    error_message = "lake_cold_days: want 30 or more: upkeep rewrites younger files, and Glacier charges 90 days for each."
  }
}

variable "quarantine_days" {
  description = "Days for which bodies and events that were too large for a record are kept."
  type        = number
  default     = 400
  validation {
    condition     = var.quarantine_days >= 1
    error_message = "quarantine_days: want 1 or more."
  }
}

variable "log_days" {
  description = "Days for which CloudWatch keeps logs of tasks, hosts and the network."
  type        = number
  default     = 30
  validation {
    condition     = contains([7, 14, 30, 60, 90, 180, 365, 400], var.log_days)
    error_message = "log_days: want 7, 14, 30, 60, 90, 180, 365 or 400, of those that CloudWatch offers."
  }
}

variable "replica" {
  description = "Where the lake and the registry are copied to: the `replica` output of another cell of the same jurisdiction, in another region. null: no copy leaves this cell."
  type        = object({ bucket_arn = string, kms_key_arn = string, jurisdiction = string })
  default     = null
  validation {
    condition     = var.replica == null ? true : var.replica.jurisdiction == var.jurisdiction
    error_message = "replica: that cell has another jurisdiction: data of this one must not go there."
  }
}

variable "pager_emails" {
  description = "Addresses that hear of pages. They get a mail that they must confirm. A pager's HTTPS endpoint is subscribed to the topic `page` by hand."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for a in var.pager_emails : can(regex("^[^@ ]+@[^@ ]+$", a))])
    error_message = "pager_emails: want addresses such as oncall@example.com."
  }
}

variable "deletion_protection" {
  description = "Keeps the load balancer and the buckets that hold data from being destroyed. `terraform destroy` needs false, applied first."
  type        = bool
  default     = true
}
