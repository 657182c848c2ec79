# Settings of the fleet. Maps are by the cell's name; a cell that a map does not name has the module's defaults (modules/cell/variables.tf).

variable "domain" {
  description = "Name that agents send to, a zone of its own: ingest.example.com."
  type        = string
}

variable "images" {
  description = "Images of each cell, REPOSITORY@sha256:DIGEST (modules/cell). An upgrade changes one cell's first."
  type = map(object({
    collector  = string
    operator   = string
    clickhouse = string
    metrics    = string
  }))
  validation {
    condition     = length(setsubtract(["eu-1", "eu-2", "us-1"], keys(var.images))) == 0
    error_message = "images: want those of eu-1, eu-2 and us-1."
  }
}

variable "sizes" {
  description = "Sizes of tasks, where they are not the defaults."
  type        = any
  default     = {}
}

variable "kafka" {
  description = "The MSK cluster, where it is not the default."
  type        = any
  default     = {}
}

variable "clickhouse" {
  description = "The hot store, where it is not the default."
  type        = any
  default     = {}
}

variable "temporal" {
  description = "Temporal's address and namespace, where a cell has workers."
  type        = map(object({ address = string, namespace = string }))
  default     = {}
}

variable "history_buckets" {
  description = "ARNs of the old collectors' buckets that the backfills of a cell read."
  type        = map(list(string))
  default     = {}
}

variable "tags" {
  description = "Tags of every resource, beside project, environment and cell. Activate all of them as cost allocation tags."
  type        = map(string)
  default     = {}
}

variable "pager_emails" {
  description = "Addresses that hear of every cell's pages."
  type        = list(string)
  default     = []
}

variable "owner_emails" {
  description = "Addresses that hear of the bill and of break-glass."
  type        = list(string)
  default     = []
}

variable "oncall_principals" {
  description = "ARNs that may take the role pulsegrid-oncall."
  type        = list(string)
  default     = []
}

variable "breakglass_principals" {
  description = "ARNs that may take the role pulsegrid-breakglass."
  type        = list(string)
  default     = []
}

variable "monthly_budget_usd" {
  description = "Limit of the account's bill."
  type        = number
  default     = 120000
}

variable "deletion_protection" {
  description = "Keeps load balancers, hosts, secrets and buckets from being destroyed. Apply false before `terraform destroy`."
  type        = bool
  default     = true
}
